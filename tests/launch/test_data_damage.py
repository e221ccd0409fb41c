"""A file cut off, overwritten or made to run code ends in one sentence, never in a crash."""

from __future__ import annotations

import collections
import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from qwenft_trainer.data import load
from qwenft_trainer.failure import DatasetInvalid

pytestmark = pytest.mark.torch

MOMENTS = 60
"""How many places of a good file are damaged."""


class Tokenized(dict[str, Any]):
    """Stands for a tokenizer's output class, which many tutorials save by mistake."""


class Bomb:
    """Would make a file when unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


def good_file() -> bytes:
    """Return a dataset file with enough in it that most of it is content."""
    rows = [
        {"input_ids": torch.arange(n, n + 20), "attention_mask": torch.ones(20, dtype=torch.int64)}
        for n in range(6)
    ]
    buffer = io.BytesIO()
    torch.save({"train": rows, "validation": rows[:2]}, buffer)
    return buffer.getvalue()


def refused(path: Path) -> str:
    with pytest.raises(DatasetInvalid) as caught:
        load(path, vocab_size=512)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"this is no dataset",
        b'{"train": []}',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        b"PK\x03\x04 and then nothing",
        b"\x80\x02.",
        b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00" * 5000,
        bytes(range(256)) * 20,
    ],
    ids=["empty", "newline", "text", "json", "pointer", "zip", "pickle", "long", "zeros", "bytes"],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "set.pt"
    path.write_bytes(content)
    sentence = refused(path)
    assert "cannot be read" in sentence
    assert "cut off, damaged or no file of torch.save" in sentence


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content, path = good_file(), tmp_path / "set.pt"
    for part in range(1, MOMENTS):
        path.write_bytes(content[: len(content) * part // MOMENTS])
        refused(path)


def test_a_file_with_damaged_bytes_is_read_or_refused_and_never_crashes(tmp_path: Path) -> None:
    content, path = good_file(), tmp_path / "set.pt"
    places = random.Random(0)  # noqa: S311 - the same damage in every run
    refusals = 0
    for _ in range(MOMENTS):
        damaged = bytearray(content)
        begin = places.randrange(len(content) - 40)
        damaged[begin : begin + 40] = places.randbytes(40)
        path.write_bytes(damaged)
        try:
            load(path, vocab_size=512)
        except DatasetInvalid as error:
            assert str(error).startswith(f"{path}: ")
            refusals += 1
    assert refusals > 0


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Tokenized(input_ids=[1]), "Tokenized"),
        (collections.deque([1]), "deque"),
        (Path("x"), "pathlib.PosixPath"),
    ],
    ids=["class", "deque", "path"],
)
def test_content_that_needs_a_class_is_refused_with_its_name_and_the_way_out(
    tmp_path: Path, value: object, name: str
) -> None:
    path = tmp_path / "set.pt"
    torch.save({"train": [value]}, path)
    sentence = refused(path)
    assert f"{name}, but only tensors, lists, dicts and numbers are read" in sentence
    assert "qwenft prepare" in sentence


@pytest.mark.parametrize("content", [b"text", b"\x80\x02.", b"version of nothing"])
def test_torchs_advice_to_load_unsafely_is_not_passed_on(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "set.pt"
    path.write_bytes(content)
    assert "weights_only" not in refused(path)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_file_never_runs_code(tmp_path: Path, form: str) -> None:
    path, trace = tmp_path / "set.pt", tmp_path / "was-here"
    content = {"train": [Bomb(str(trace))]}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    refused(path)
    assert not trace.exists()
