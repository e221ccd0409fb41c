"""Dataset files as a script's DataLoader takes them: rows of one length, a dict a record."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qwenft_trainer.failure import TrainerError
from qwenft_trainer.flat import offsets
from qwenft_trainer.records import IGNORED


def write(
    path: Path,
    lengths: Mapping[str, npt.NDArray[np.int64]],
    *,
    tokens: npt.NDArray[np.int32],
    trained: npt.NDArray[np.bool_],
    width: int,
    pad: int,
) -> None:
    """Write ``{split: [{"input_ids", "attention_mask"}, …]}``; raises :class:`TrainerError`.

    ``tokens`` and ``trained`` hold all splits one after the other. Records have ``labels`` too
    where some token is context only.
    """
    content, begin = {}, 0
    for split, each in lengths.items():
        span = slice(begin, begin + int(each.sum()))
        content[split] = rows(each, tokens[span], trained[span], width=width, pad=pad)
        begin = span.stop
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        raise TrainerError(f"{path}: cannot be written: {error}") from None


def rows(
    lengths: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int32],
    trained: npt.NDArray[np.bool_],
    *,
    width: int,
    pad: int,
) -> list[dict[str, Tensor]]:
    """Pad at the right; each row is a view of one tensor, so that the file loads fast."""
    masked = not bool(trained.all())
    ids = torch.full((len(lengths), width), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED) if masked else ids
    for index, (begin, length) in enumerate(zip(offsets(lengths)[:-1], lengths, strict=True)):
        row = torch.from_numpy(tokens[begin : begin + length].astype(np.int64))
        ids[index, :length] = row
        mask[index, :length] = 1
        if masked:
            flags = torch.from_numpy(trained[begin : begin + length])
            labels[index, :length] = row.masked_fill(~flags, IGNORED)
    columns = {"input_ids": ids, "attention_mask": mask} | ({"labels": labels} if masked else {})
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
