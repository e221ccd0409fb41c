"""Several samples in one row, so that less is computed for padding.

The samples of a global batch are chosen first and packed then, inside each rank's share: packing
never changes what a step trains on. Positions begin anew with each sample and attention stays
inside it, so the loss is that of one sample a row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from qwenft_trainer.batch import Batch
from qwenft_trainer.loss import IGNORED


def pack(lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Put samples into rows as wide as the longest of them: first fit, longest first.

    Returns the samples' places in ``lengths``, a tuple a row. First fit decreasing needs at most
    11/9 of the fewest rows, and one row (Johnson 1973).
    """
    width = max(lengths)
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((r for r, left in enumerate(room) if left >= lengths[place]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(width)
        rows[row].append(place)
        room[row] -= lengths[place]
    return tuple(tuple(row) for row in rows)


def packed(
    tokens: Sequence[Tensor], labels: Sequence[Tensor], rows: Sequence[Sequence[int]]
) -> Batch:
    """Lay samples [t] out as ``rows`` says; the labels are unshifted, as Hugging Face takes them.

    Padding has segment 0, the samples of a row 1, 2, ….
    """
    targets = [functional.pad(label[1:], (0, 1), value=IGNORED) for label in labels]
    positions = [torch.arange(len(sample)) for sample in tokens]
    numbers = {place: n for row in rows for n, place in enumerate(row, start=1)}
    segments = [torch.full_like(sample, numbers[i]) for i, sample in enumerate(tokens)]
    return Batch(
        input_ids=_laid_out(tokens, rows, fill=0),
        targets=_laid_out(targets, rows, fill=IGNORED),
        position_ids=_laid_out(positions, rows, fill=0),
        segments=_laid_out(segments, rows, fill=0),
    )


def _laid_out(values: Sequence[Tensor], rows: Sequence[Sequence[int]], *, fill: int) -> Tensor:
    joined = [torch.cat([values[place] for place in row]) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(joined, batch_first=True, padding_value=fill)
