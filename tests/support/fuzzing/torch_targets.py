"""The trainer's parsers: datasets, checkpoints. They need torch."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from fuzzing.checkpoint_targets import LISTED, checkpoint_targets
from fuzzing.mutate import damaged, mutated
from fuzzing.targets import Target
from qwenft_trainer.checkpoint_files import MANIFEST, Found, best, find, unlisted, verify
from qwenft_trainer.checkpoint_reader import CONTENTS, read_contents
from qwenft_trainer.data import load
from qwenft_trainer.failure import DatasetInvalid
from qwenft_trainer.records import flatten

__all__ = ["torch_targets"]

RECORDS = [
    {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 0], "labels": [-100, 2, 3]},
    {"input_ids": [4, 5], "attention_mask": [1, 1]},
]


def _dataset() -> bytes:
    rows = [{key: torch.tensor(value) for key, value in record.items()} for record in RECORDS]
    buffer = io.BytesIO()
    torch.save({"train": rows, "validation": rows}, buffer)
    return buffer.getvalue()


def _contents() -> bytes:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        save({"a": torch.ones(3)}, storage_writer=FileSystemWriter(folder), no_dist=True)
        return (Path(folder) / CONTENTS).read_bytes()


def _into(file: Path, read: Callable[[], Any]) -> Callable[[bytes], Any]:
    def call(content: bytes) -> Any:
        file.write_bytes(content)
        return read()

    return call


def _looked_at(there: tuple[Found, ...]) -> list[str | None]:
    best(there)
    return [unlisted(each) or verify(each.path, each.files) for each in there]


def torch_targets(folder: Path) -> tuple[Target, ...]:
    """Return the targets; files are written into ``folder``."""
    dataset, contents = _dataset(), _contents()
    step = folder / "step-00000004-attempt-0001"
    step.mkdir()

    def manifest(chance: Random) -> bytes:
        text = json.dumps(mutated(LISTED, chance)).encode("utf-8", "replace")
        return text if chance.randrange(2) else damaged(text, chance)

    return (
        Target(name="dataset file", make=lambda c: damaged(dataset, c),
               read=_into(folder / "data.pt", lambda: load(folder / "data.pt")),
               answers=(DatasetInvalid,)),
        Target(name="dataset records", make=lambda c: mutated(RECORDS, c),
               read=lambda records: flatten(records, where="train"), answers=(DatasetInvalid,)),
        Target(name="checkpoint manifest", make=manifest,
               read=_into(step / MANIFEST, lambda: _looked_at(find(folder)))),
        Target(name="checkpoint contents", make=lambda c: damaged(contents, c),
               read=_into(folder / CONTENTS, lambda: read_contents(folder)),
               answers=(pickle.UnpicklingError,)),
        *checkpoint_targets(folder),
    )  # fmt: skip
