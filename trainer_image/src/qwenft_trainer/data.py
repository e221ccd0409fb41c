"""``qwen_dataset.pt`` → checked samples, and the order in which a run sees them.

Two layouts are read. The tutorial's has a list of records with ``input_ids`` and
``attention_mask`` (a DataLoader batches it as it is); the flat one has all tokens of a split in one
tensor beside their offsets and loads without a Python object a sample. Both come out as the same
:class:`Dataset`. The order is a function of seed and epoch alone, so it is the same under every
plan and after every restart.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from qwenft_trainer.failure import DatasetInvalid
from qwenft_trainer.records import flatten

IGNORED = -100
"""Label of a token that is not trained (PyTorch's and Hugging Face's value)."""

FLAT_FORMAT = "qwenft-flat"
FLAT_VERSION = 1
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
        counts = self.trained.long()
        counts[self.offsets[:-1][self.lengths() > 0]] = 0
        sums = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]]

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
    content = _content(path)
    splits = {}
    for name in ("train", "validation"):
        if content.get(name) is not None:
            splits[name] = _split(content, name, where=f"{path}: {name}")
            _check(splits[name], vocab_size, where=f"{path}: {name}")
    if "train" not in splits:
        found = ", ".join(map(str, content)) or "nothing"
        raise DatasetInvalid(f'{path}: has no "train" split, only {found}; see qwenft prepare')
    return Splits(**splits)


def save_flat(splits: Splits, path: Path) -> None:
    """Write a dataset in the flat layout."""
    content: dict[str, Any] = {"format": FLAT_FORMAT, "version": FLAT_VERSION}
    for name in ("train", "validation"):
        split = getattr(splits, name)
        if split is not None:
            content[name] = {key: getattr(split, key) for key in Dataset.__slots__}
    torch.save(content, path)


def _content(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DatasetInvalid(f"{path}: no such file; check spec.dataset.path and its volume")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged pickles; the error below says it better
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged file raises whatever its bytes lead to
        raise DatasetInvalid(f"{path}: {_unreadable(error)}") from None
    if not isinstance(content, Mapping):
        raise DatasetInvalid(f'{path}: must hold {{"train": …}}, not a {type(content).__name__}')
    return content


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


def _split(content: Mapping[str, Any], name: str, *, where: str) -> Dataset:
    part = content[name]
    if content.get("format") != FLAT_FORMAT:
        return Dataset(**flatten(part, where=where))
    if content.get("version") != FLAT_VERSION:
        raise DatasetInvalid(f"{where}: version {content.get('version')!r} of the flat format")
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
    bad = dataset.tokens < 0
    if vocab_size is not None:
        bad |= dataset.tokens >= vocab_size
    if bool(bad.any()):
        position = int(bad.nonzero()[0])
        record = int(torch.searchsorted(dataset.offsets, position, right=True)) - 1
        limit = "" if vocab_size is None else f" of the model's vocabulary of {vocab_size}"
        raise DatasetInvalid(
            f"{where}[{record}]: token id {int(dataset.tokens[position])} is outside{limit}; the "
            "dataset was made with another tokenizer",
        )
    if int(dataset.trained_tokens().sum()) == 0:
        raise DatasetInvalid(f"{where}: no sample has a token to train on")
