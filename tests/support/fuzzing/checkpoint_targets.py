"""What somebody may put into a checkpoint's or a model's directory, and how the trainer reads it.

Digests are renewed as anybody may who can write there: what they would show is tested elsewhere.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from fuzzing.mutate import anything, damaged, mutated
from fuzzing.targets import Target
from qwenft_trainer import data
from qwenft_trainer.checkpoint import FENCE, failures_named
from qwenft_trainer.checkpoint_files import (
    MANIFEST,
    best,
    digest,
    find,
    last_attempt,
    unlisted,
    verify,
)
from qwenft_trainer.checkpoint_reader import CONTENTS, GuardedReader, read_contents, suspicious
from qwenft_trainer.failure import DatasetInvalid, ModelInvalid, TrainerError
from qwenft_trainer.weights import shapes_in

__all__ = ["LISTED", "checkpoint_targets", "saved"]

LISTED = {
    "step": 4, "attempt": 1, "identity": "run", "files": {"__0_0.distcp": "0"},
    "notes": {"validationLoss": 1.5, "seconds": 2.0, "lowestValidationLoss": None},
}  # fmt: skip
STEP = "step-00000004-attempt-0001"
NAMES = (
    ".hidden", "..metadata", ".metadata.part", "__9_9.distcp", "manifest.json.bak", "a\nb", "é",
    "x" * 200, "\u202egnp", "-rf", "~", "%s", "manifest.json ", ".nfs0001", "core",
)  # fmt: skip


def _state() -> dict[str, Any]:
    return {
        "model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)},
        "optimizer": {"mask": torch.tensor([True, False])},
    }


def saved(folder: Path) -> Path:
    """Save an honest checkpoint into ``folder`` and return its directory."""
    path = folder / STEP
    with warnings.catch_warnings(action="ignore"):
        save(_state(), storage_writer=FileSystemWriter(str(path)), no_dist=True)
    _sign(path)
    return path


def _sign(path: Path) -> None:
    """Write a manifest that agrees with whatever plain files there are."""
    files = {
        each.name: digest(each)
        for each in path.iterdir()
        if each.name != MANIFEST and each.is_file() and not each.is_symlink()
    }
    (path / MANIFEST).write_text(json.dumps(LISTED | {"files": files}))


def _twisted(value: Any, chance: Random) -> Any:
    """Return an object of the table with one of its parts replaced, at some depth."""
    parts = _parts(value)
    if not parts or not chance.randrange(4):
        return anything(chance, 1)
    key = chance.choice(list(parts))
    new = _twisted(parts[key], chance)
    if isinstance(value, dict):
        return {**value, key: new}
    if isinstance(value, list):
        return [*value[:key], new, *value[key + 1 :]]
    made = object.__new__(type(value))
    for each in fields(value):
        object.__setattr__(made, each.name, new if each.name == key else parts[each.name])
    return made


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return dict(enumerate(value))
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return {}


def _table(honest: bytes, chance: Random) -> bytes:
    """Return a table of contents that is well-formed and wrong, or not even that."""
    whole = pickle.loads(honest)  # noqa: S301 - it was just written here
    for _ in range(chance.randrange(1, 3)):
        whole = _twisted(whole, chance)
    try:
        content = pickle.dumps(whole, protocol=chance.choice((2, 4, 5)))
    except RuntimeError:  # a memory format that is none is not written either
        content = honest
    return content if chance.randrange(4) else damaged(content, chance)


def _header(header: Mapping[str, Any], body: bytes, chance: Random) -> bytes:
    """Return a safetensors file whose header is mutated, and whose length may be a lie."""
    text = json.dumps(mutated(header, chance)).encode("utf-8", "replace")
    size = len(text) if chance.randrange(8) else chance.choice((0, 1, 2**31, 2**63, len(text) + 1))
    whole = size.to_bytes(8, "little") + text + body
    return whole if chance.randrange(3) else damaged(whole, chance)


def _tensors(**shapes: tuple[str, int, int]) -> tuple[dict[str, Any], bytes]:
    """Return the header and the bytes of tensors [n] of a type with so many bytes an element."""
    header: dict[str, Any] = {}
    at = 0
    for name, (kind, width, count) in shapes.items():
        end = at + width * count
        header[name] = {"dtype": kind, "shape": [count], "data_offsets": [at, end]}
        at = end
    return header, bytes(at)


class Directory:
    """A checkpoint's directory that is made anew, spoilt, and read as a resuming run reads it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._honest = saved(folder / "honest")
        self._folder = folder / "given"
        self._contents = (self._honest / CONTENTS).read_bytes()

    def spoilt(self, chance: Random) -> Path:
        """Return a directory with one to three things wrong."""
        shutil.rmtree(self._folder, ignore_errors=True)
        path = self._folder / STEP
        shutil.copytree(self._honest, path)
        for _ in range(chance.randrange(1, 4)):
            self._spoil(path, chance)
        if chance.randrange(4):
            _sign(path)
        return self._folder

    def _spoil(self, path: Path, chance: Random) -> None:
        kinds: tuple[Callable[[], object], ...] = (
            lambda: (path / CONTENTS).write_bytes(_table(self._contents, chance)),
            lambda: self._damage(path, chance),
            lambda: self._add(path / chance.choice(NAMES), chance),
            lambda: (path / MANIFEST).write_text(json.dumps(mutated(LISTED, chance))),
            lambda: chance.choice(sorted(path.iterdir())).unlink(missing_ok=True),
        )
        try:
            chance.choice(kinds)()
        except (OSError, IndexError):
            return  # an earlier fault left nothing to spoil there

    @staticmethod
    def _damage(path: Path, chance: Random) -> None:
        file = chance.choice(sorted(path.glob("__*")))
        content = file.read_bytes()
        file.write_bytes(damaged(content, chance))

    @staticmethod
    def _add(path: Path, chance: Random) -> None:
        kinds: tuple[Callable[[], object], ...] = (
            lambda: path.write_bytes(chance.randbytes(9)),
            path.mkdir,
            lambda: path.symlink_to(chance.choice(("/dev/zero", "nowhere", ".", path.name))),
            lambda: os.mkfifo(path),
        )
        chance.choice(kinds)()


def resumed(folder: Path) -> None:
    """Read checkpoints as a run does that resumes; :class:`TrainerError` where that fails."""
    there = find(folder)
    best(there)
    for found in there:
        if unlisted(found) or verify(found.path, found.files) or suspicious(found.path):
            continue
        with failures_named("checkpoint"), warnings.catch_warnings(action="ignore"):
            load(_state(), storage_reader=GuardedReader(found.path), no_dist=True)


def checkpoint_targets(folder: Path) -> tuple[Target, ...]:
    """Return the targets; files are written into ``folder``."""
    directory = Directory(folder / "directories")
    contents = (saved(folder / "table") / CONTENTS).read_bytes()
    model, flat = folder / "model", folder / "data.safetensors"
    model.mkdir()
    weights = _tensors(a=("F32", 4, 6), b=("BF16", 2, 4))
    weights[0]["__metadata__"] = {"format": "pt", "DCP_SHARDING_INFO": json.dumps(
        {"a": {"saved_offsets": [0]}, "b": {"saved_offsets": [4]}})}  # fmt: skip
    rows = _tensors(**{"train.offsets": ("I64", 8, 2), "train.tokens": ("I32", 4, 4),
                       "train.trained": ("BOOL", 1, 4)})  # fmt: skip
    rows[0]["__metadata__"] = {"format": "qwenft-flat", "version": "1"}

    def into(file: Path, read: Callable[[], Any]) -> Callable[[bytes], Any]:
        def call(content: bytes) -> Any:
            file.write_bytes(content)
            return read()

        return call

    return (
        Target(name="checkpoint table", make=lambda c: _table(contents, c),
               read=into(folder / CONTENTS, lambda: read_contents(folder)),
               answers=(pickle.UnpicklingError,)),
        Target(name="checkpoint directory", make=directory.spoilt, read=resumed,
               answers=(TrainerError,)),
        Target(name="fence", make=lambda c: json.dumps(
            mutated({"identity": "run", "attempt": 3}, c)).encode("utf-8", "replace"),
               read=into(folder / FENCE, lambda: last_attempt(folder / FENCE, "run") > 1)),
        Target(name="model's headers", make=lambda c: _header(*weights, c),
               read=into(model / "model.safetensors", lambda: shapes_in(model)),
               answers=(ModelInvalid,)),
        Target(name="flat dataset", make=lambda c: _header(*rows, c),
               read=into(flat, lambda: data.load(flat)), answers=(DatasetInvalid,)),
    )  # fmt: skip
