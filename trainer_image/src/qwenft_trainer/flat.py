"""The trainer's own dataset file: all tokens of a split in one row, mapped and never read whole.

It is a safetensors file with, a split, ``<split>.offsets`` [samples + 1] int64, ``<split>.tokens``
[all] int32 and ``<split>.trained`` [all] bool. Sample i is ``tokens[offsets[i]:offsets[i + 1]]``;
a token that is not trained is context only.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

FORMAT = "qwenft-flat"
VERSION = "1"
SUFFIX = ".safetensors"
FIELDS = {"offsets": ("I64", 8), "tokens": ("I32", 4), "trained": ("BOOL", 1)}
"""Each tensor's type in the header and bytes an element, in the order of the file."""
_ALIGNMENT = 8


def write(
    path: Path,
    lengths: Mapping[str, npt.NDArray[np.int64]],
    *,
    tokens: Iterable[Path],
    trained: Iterable[Path],
) -> None:
    """Join files of raw values into one dataset file, which is there whole or not at all.

    ``lengths`` holds each split's samples in tokens; ``tokens`` and ``trained`` are files with the
    values of all splits, one split after the other. No more than a buffer of them is in memory.
    """
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            file.write(_header(lengths))
            for each in lengths.values():
                file.write(offsets(each).astype("<i8").tobytes())
            for source in (*tokens, *trained):
                _append(source, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:  # a full disk: give the room back
        part.unlink(missing_ok=True)
        raise


def offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each sample begins, and where the last one ends."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)))


def _header(lengths: Mapping[str, npt.NDArray[np.int64]]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": FORMAT, "version": VERSION}}
    position = 0
    for field, (kind, width) in FIELDS.items():
        for split, each in lengths.items():
            count = len(each) + 1 if field == "offsets" else int(each.sum())
            end = position + count * width
            entries[f"{split}.{field}"] = {
                "dtype": kind,
                "shape": [count],
                "data_offsets": [position, end],
            }
            position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)  # so that the first tensor is aligned
    return len(text).to_bytes(8, "little") + text


def _append(source: Path, file: BinaryIO) -> None:
    with source.open("rb") as values:
        shutil.copyfileobj(values, file, 1 << 20)
