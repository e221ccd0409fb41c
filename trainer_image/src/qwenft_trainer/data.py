"""Dataset files → checked samples, and the order in which a run sees them.

Two layouts are read. The tutorial's has a list of records with ``input_ids`` and
``attention_mask`` (a DataLoader batches it as it is); the flat one, ``*.safetensors``, has all
tokens of a split in one row beside their offsets and is mapped, not read. Both come out as the same
:class:`Dataset`. The order is a function of seed and epoch alone, so it is the same under every
plan and after every restart.
"""

import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qwenft_trainer import flat
from qwenft_trainer.failure import DatasetInvalid
from qwenft_trainer.records import flatten

IGNORED = -100
"""Label of a token that is not trained (PyTorch's and Hugging Face's value)."""

PART = 1 << 22
"""Tokens that are looked at together, so that checking a mapped file takes little memory."""
RAW = (".jsonl", ".json", ".parquet")
_TYPES = {"tokens": torch.int32, "trained": torch.bool, "offsets": torch.int64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The samples of one split, without padding.

    ``tokens`` [all] int32, ``trained`` [all] bool (False: the token is context only), ``offsets``
    [samples + 1] int64: sample i is ``tokens[offsets[i]:offsets[i + 1]]``.
    """

    tokens: Tensor
    trained: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, indices: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the samples' tokens and labels, int64, a tensor each.

        Labels are unshifted, as Hugging Face takes them, with -100 where nothing is trained.
        """
        spans = [slice(int(self.offsets[i]), int(self.offsets[i + 1])) for i in indices]
        tokens = [self.tokens[span].long() for span in spans]
        labels = [
            row.masked_fill(~self.trained[span], IGNORED)
            for row, span in zip(tokens, spans, strict=True)
        ]
        return tokens, labels

    def trained_tokens(self) -> Tensor:
        """Return how many predictions each sample trains, [samples] int64.

        The first token of a sample has nothing before it that could predict it.
        """
        return self._sums(self.offsets[1:])

    def trained_within(self, limit: int) -> Tensor:
        """Return the same for samples that are cut to ``limit`` tokens."""
        return self._sums(torch.minimum(self.offsets[1:], self.offsets[:-1] + limit))

    def _sums(self, ends: Tensor) -> Tensor:
        """Count trained tokens from each sample's second one to ``ends``, part by part."""
        begins = torch.minimum(self.offsets[:-1] + 1, ends)
        before, found = 0, torch.zeros(2, len(self), dtype=torch.int64)
        for start in range(0, len(self.trained) + 1, PART):
            flags = self.trained[start : start + PART].long()
            sums = torch.cat((flags.new_zeros(1), flags.cumsum(0))) + before
            for row, positions in zip(found, (begins, ends), strict=True):
                inside = (positions >= start) & (positions <= start + len(flags))
                row[inside] = sums[positions[inside] - start]
            before = int(sums[-1])
        return found[1] - found[0]

    def lengths(self) -> Tensor:
        """Return the samples' lengths in tokens, [samples] int64."""
        return self.offsets.diff()


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """A whole dataset file."""

    train: Dataset
    validation: Dataset | None = None


def order(samples: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of an epoch, [samples] int64: the same on every rank, under every plan."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed + epoch))


def load(path: Path | str, *, vocab_size: int | None = None) -> Splits:
    """Read and check a dataset file.

    Token ids must be below ``vocab_size`` where it is given. Raises :class:`DatasetInvalid` naming
    the file, and the split and record where one is to blame.
    """
    path = Path(path)
    found = _content(path)
    is_flat = path.suffix == flat.SUFFIX
    splits = {}
    for name in ("train", "validation"):
        if found.get(name) is not None:
            splits[name] = _split(found, name, is_flat=is_flat, where=f"{path}: {name}")
            _check(splits[name], vocab_size, where=f"{path}: {name}")
    if "train" not in splits:
        there = ", ".join(map(str, found)) or "nothing"
        raise DatasetInvalid(f'{path}: has no "train" split, only {there}; see qwenft prepare')
    return Splits(**splits)


def save_flat(splits: Splits, path: Path) -> None:
    """Write a dataset in the flat layout."""
    found = {"train": splits.train, "validation": splits.validation}
    there = {name: split for name, split in found.items() if split is not None}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        files = {}
        for field in ("tokens", "trained"):
            files[field] = [Path(folder) / f"{name}.{field}" for name in there]
            for file, split in zip(files[field], there.values(), strict=True):
                getattr(split, field).numpy().tofile(file)
        lengths = {name: split.lengths().numpy() for name, split in there.items()}
        flat.write(path, lengths, tokens=files["tokens"], trained=files["trained"])


def content(path: Path) -> Mapping[str, Any]:
    """Return what a file of ``torch.save`` holds; raises :class:`DatasetInvalid` naming the file.

    Only tensors, lists, dicts and numbers are read, never code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged pickles; the error below says it better
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged file raises whatever its bytes lead to
        raise DatasetInvalid(f"{path}: {_unreadable(error)}") from None
    if not isinstance(found, Mapping):
        raise DatasetInvalid(f'{path}: must hold {{"train": …}}, not a {type(found).__name__}')
    return found


def _content(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DatasetInvalid(f"{path}: no such file; check spec.dataset.path and its volume")
    if path.suffix in RAW:
        raise DatasetInvalid(
            f"{path}: holds text, not tokens; make a dataset of it: qwenft prepare --input "
            f"{path.name} --tokenizer MODEL --output dataset.safetensors"
        )
    return _flat_content(path) if path.suffix == flat.SUFFIX else content(path)


def _flat_content(path: Path) -> Mapping[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if (about.get("format"), about.get("version")) != (flat.FORMAT, flat.VERSION):
                raise DatasetInvalid(
                    f"{path}: is no dataset of this version's qwenft prepare, but {about or 'bare'}"
                )
            names = sorted({name.partition(".")[0] for name in file.keys()})  # noqa: SIM118
            return {
                split: {
                    name.partition(".")[2]: file.get_tensor(name)
                    for name in file.keys()  # noqa: SIM118 - it is no dict
                    if name.startswith(f"{split}.")
                }
                for split in names
            }
    except (SafetensorError, OSError) as error:
        raise DatasetInvalid(
            f"{path}: cannot be read ({error}); it is cut off or damaged"
        ) from None


def _unreadable(error: Exception) -> str:
    """Say why in one line; torch's own advice, to load unsafely, is left out."""
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign:
        return (
            f"holds objects of {foreign[1]}, but only tensors, lists, dicts and numbers are read; "
            "write it with qwenft prepare, or convert its records to plain dicts of tensors"
        )
    lines = str(error).strip().splitlines()
    quiet = isinstance(error, UnpicklingError) or not lines
    what = type(error).__name__ if quiet else f"{type(error).__name__}: {lines[0]}"
    return f"cannot be read ({what}); it is cut off, damaged or no file of torch.save"


def _split(content: Mapping[str, Any], name: str, *, is_flat: bool, where: str) -> Dataset:
    part = content[name]
    if not is_flat:
        return Dataset(**flatten(part, where=where))
    try:
        dataset = Dataset(**part)
    except TypeError as error:
        raise DatasetInvalid(f"{where}: {error}") from None
    _check_flat(dataset, where=where)
    return dataset


def _check_flat(dataset: Dataset, *, where: str) -> None:
    for key in Dataset.__slots__:
        value = getattr(dataset, key)
        if not isinstance(value, Tensor) or value.dim() != 1 or value.dtype != _TYPES[key]:
            raise DatasetInvalid(f"{where}: {key} must be a tensor [n] of {_TYPES[key]}")
    offsets, total = dataset.offsets, len(dataset.tokens)
    fits = len(offsets) > 0 and int(offsets[0]) == 0 and int(offsets[-1]) == total
    if not fits or bool((dataset.lengths() < 0).any()) or len(dataset.trained) != total:
        raise DatasetInvalid(f"{where}: offsets do not fit the {total} tokens; the file is damaged")


def _check(dataset: Dataset, vocab_size: int | None, *, where: str) -> None:
    if not len(dataset):
        raise DatasetInvalid(f"{where}: is empty")
    position = _first_outside(dataset.tokens, vocab_size)
    if position is not None:
        record = int(torch.searchsorted(dataset.offsets, position, right=True)) - 1
        limit = "" if vocab_size is None else f" of the model's vocabulary of {vocab_size}"
        raise DatasetInvalid(
            f"{where}[{record}]: token id {int(dataset.tokens[position])} is outside{limit}; the "
            "dataset was made with another tokenizer",
        )
    if int(dataset.trained_tokens().sum()) == 0:
        raise DatasetInvalid(f"{where}: no sample has a token to train on")


def _first_outside(tokens: Tensor, vocab_size: int | None) -> int | None:
    for start in range(0, len(tokens), PART):
        part = tokens[start : start + PART]
        bad = part < 0 if vocab_size is None else (part < 0) | (part >= vocab_size)
        if bool(bad.any()):
            return start + int(bad.nonzero()[0])
    return None
