"""Lists of records with ``input_ids`` and ``attention_mask`` → flat tensors, checked.

Padding is taken off at either end: what a causal model computes for a token depends on the tokens
before it and on their distances, never on padding.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qwenft_trainer.failure import DatasetInvalid

IGNORED = -100


def flatten(records: Any, *, where: str) -> dict[str, Tensor]:
    """Return ``tokens``, ``trained`` and ``offsets`` of a list of records.

    A record's ``labels``, where it has them, say by -100 which tokens are context only. Raises
    :class:`DatasetInvalid` naming the record.
    """
    if not isinstance(records, Sequence):
        raise DatasetInvalid(f"{where}: must be a list of records, not {type(records).__name__}")
    rows = [row(record, where=f"{where}[{index}]") for index, record in enumerate(records)]
    lengths = torch.tensor([0, *(len(tokens) for tokens, _ in rows)], dtype=torch.int64)
    return {
        "tokens": _join([tokens for tokens, _ in rows], torch.int32),
        "trained": _join([trained for _, trained in rows], torch.bool),
        "offsets": lengths.cumsum(0),
    }


def _join(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat([part.to(dtype) for part in parts]) if parts else torch.empty(0, dtype=dtype)


def row(record: Any, *, where: object) -> tuple[Tensor, Tensor]:
    """Return one record's tokens, int64, and which of them are trained, both [t].

    Raises :class:`DatasetInvalid` naming ``where``, which becomes text only then.
    """
    if not isinstance(record, Mapping):
        raise DatasetInvalid(f"{where}: must be a dict, not {type(record).__name__}")
    tokens = _integers(record, "input_ids", where=where)
    mask = torch.ones_like(tokens)
    if "attention_mask" in record:
        mask = _integers(record, "attention_mask", where=where)
    labels = _integers(record, "labels", where=where) if "labels" in record else tokens
    _check_lengths({"attention_mask": mask, "labels": labels}, len(tokens), where=where)
    span = _unpadded(mask, where=where)
    trained = _trained(tokens[span], labels[span], where=where)
    return _checked_ids(tokens[span], where=where), trained


def _integers(record: Mapping[str, Any], key: str, *, where: object) -> Tensor:
    if key not in record:
        raise DatasetInvalid(f"{where}: has no {key}, only {', '.join(map(str, record))}")
    try:
        values = torch.as_tensor(record[key])
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DatasetInvalid(f"{where}.{key}: is no list of integers: {error}") from None
    if values.dim() == 2 and len(values) == 1:  # noqa: PLR2004
        values = values[0]  # a tokenizer asked for return_tensors="pt" adds a batch of one
    if values.dim() != 1 or values.is_floating_point() or values.is_complex():
        shape = tuple(values.shape)
        raise DatasetInvalid(
            f"{where}.{key}: must be a row of integers, not {values.dtype} {shape}"
        )
    return values.long()


def _check_lengths(others: Mapping[str, Tensor], length: int, *, where: object) -> None:
    for key, values in others.items():
        if len(values) != length:
            raise DatasetInvalid(f"{where}: {key} has {len(values)} entries, input_ids {length}")


def _unpadded(mask: Tensor, *, where: object) -> slice:
    """Return the span of ones; a mask with a hole cannot be had from padding and is refused."""
    ones = mask.nonzero()[:, 0]
    if not bool(((mask == 0) | (mask == 1)).all()):
        odd = mask[(mask != 0) & (mask != 1)][0]
        raise DatasetInvalid(f"{where}.attention_mask: holds {int(odd)}; only 0 and 1 are allowed")
    if not len(ones):
        raise DatasetInvalid(f"{where}.attention_mask: masks every token out")
    first, last = int(ones[0]), int(ones[-1])
    if last - first + 1 != len(ones):
        raise DatasetInvalid(f"{where}.attention_mask: has zeros between ones; pad at one end only")
    return slice(first, last + 1)


def _trained(tokens: Tensor, labels: Tensor, *, where: object) -> Tensor:
    """Return which tokens are trained; labels of other tokens would be left out in silence."""
    trained = labels != IGNORED
    other = (trained & (labels != tokens)).nonzero()[:, 0]
    if len(other):
        entry = int(other[0])
        raise DatasetInvalid(
            f"{where}.labels: entry {entry} is {int(labels[entry])}, but input_ids has "
            f"{int(tokens[entry])}; labels repeat input_ids, unshifted, or are {IGNORED}"
        )
    return trained


def _checked_ids(tokens: Tensor, *, where: object) -> Tensor:
    # Flat tokens are int32; an id beyond it must not wrap round into a valid one.
    kept = torch.iinfo(torch.int32)
    beyond = tokens[(tokens < kept.min) | (tokens > kept.max)]
    if len(beyond):
        raise DatasetInvalid(f"{where}.input_ids: {int(beyond[0])} is no token id")
    return tokens
