"""Rows of tokens on their way into a model.

A batch never depends on the plan: the global batch is a list of rows in sample order, of which
every data-parallel rank takes its share, and labels are shifted here, once, on full sequences, so
that no rank needs its neighbour's first token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional

from qwenft_plan.plan import Plan
from qwenft_trainer.arrange import arrange
from qwenft_trainer.loss import IGNORED
from qwenft_trainer.mesh import data_index


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows of one length, all tensors int64 [B, T].

    ``targets[b, t]`` is what position t must predict (already shifted; -100: not trained).
    ``segments`` tells samples in one row apart; None means that plain causal attention is right:
    one sample a row, with padding only at its end, where no trained token can see it.
    """

    input_ids: Tensor
    targets: Tensor
    position_ids: Tensor
    segments: Tensor | None = None

    @classmethod
    def from_rows(
        cls, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None
    ) -> "Batch":
        """Take tensors as Hugging Face models do: unshifted labels, a 0/1 mask [B, T].

        Positions count from the row's begin, as Hugging Face's forward has it.
        """
        rows, length = input_ids.shape
        positions = torch.arange(length, device=input_ids.device).expand(rows, length)
        segments = None
        if attention_mask is not None and not _padded_at_the_end(attention_mask):
            segments = attention_mask.long()
        return cls(
            input_ids=input_ids,
            targets=functional.pad(labels[:, 1:], (0, 1), value=IGNORED),
            position_ids=positions,
            segments=segments,
        )

    @classmethod
    def from_samples(cls, tokens: Sequence[Tensor], labels: Sequence[Tensor]) -> "Batch":
        """Pad unequal samples [t] at their ends to one row each."""
        pad = torch.nn.utils.rnn.pad_sequence
        return cls.from_rows(
            pad(list(tokens), batch_first=True),
            pad(list(labels), batch_first=True, padding_value=IGNORED),
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.input_ids.shape[0]

    @property
    def length(self) -> int:
        """Positions a row."""
        return self.input_ids.shape[1]

    @property
    def trained_tokens(self) -> Tensor:
        """How many positions are trained on, as a 0-dim int64 tensor."""
        return (self.targets != IGNORED).sum()

    def rows(self, which: slice | Sequence[int], *, width: int | None = None) -> "Batch":
        """Take some rows, or their first ``width`` positions."""
        return Batch(**{name: value[which, :width] for name, value in self.tensors().items()})

    def widths(self) -> list[int]:
        """Return each row's positions up to its last trained one, at least one.

        No position sees those behind it, so the others change neither loss nor gradients.
        """
        ends = torch.arange(1, self.length + 1, device=self.targets.device)
        found = torch.where(self.targets == IGNORED, 0, ends).amax(dim=1)
        return [max(1, int(width)) for width in found.tolist()]

    def micro_batches(self, *, ranks: int, most: int, rank: int) -> tuple["Batch", ...]:
        """Return a rank's share of the rows, trimmed, with little padding (:func:`arrange`)."""
        widths = self.widths()
        return tuple(
            self.rows(list(group), width=max(widths[row] for row in group))
            if group
            else self.rows(slice(1), width=1).untrained()
            for group in arrange(widths, ranks=ranks, most=most)[rank]
        )

    def to(self, device: torch.device) -> "Batch":
        """Move to a device."""
        moved = {n: v.to(device, non_blocking=True) for n, v in self.tensors().items()}
        return Batch(**moved)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are there, by name."""
        present = {
            "input_ids": self.input_ids,
            "targets": self.targets,
            "position_ids": self.position_ids,
        }
        return present if self.segments is None else {**present, "segments": self.segments}

    def context(self) -> dict[str, Tensor]:
        """Return what every pipeline stage needs besides its input."""
        return {name: value for name, value in self.tensors().items() if name != "input_ids"}

    def untrained(self) -> "Batch":
        """Return the same rows with nothing to train on: for a rank that has run out of samples."""
        return replace(self, targets=torch.full_like(self.targets, IGNORED))

    def padded(self, *, rows: int, length: int) -> "Batch":
        """Grow to ``rows`` × ``length`` with untrained tokens; a no-op where nothing is missing."""
        below, right = rows - len(self), length - self.length
        if below == 0 and right == 0:
            return self
        fills = {"input_ids": 0, "targets": IGNORED, "position_ids": 0, "segments": 0}
        grown = {
            name: functional.pad(value, (0, right, 0, below), value=fills[name])
            for name, value in self.tensors().items()
        }
        return Batch(**grown)

    def split(self, rows: int) -> tuple["Batch", ...]:
        """Cut into micro-batches of ``rows`` rows."""
        return tuple(self.rows(slice(i, i + rows)) for i in range(0, len(self), rows))


def local_rows(rows: int, plan: Plan, mesh: DeviceMesh) -> slice:
    """Return this rank's share of ``rows`` rows in sample order (``plan.dp`` divides them)."""
    share = rows // plan.dp
    begin = data_index(mesh) * share
    return slice(begin, begin + share)


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is not below ``number``."""
    return -(-number // multiple) * multiple


def _padded_at_the_end(mask: Tensor) -> bool:
    """Tell whether each row is ones and then zeros."""
    return not bool((mask[:, 1:] > mask[:, :-1]).any()) and bool((mask[:, 0] > 0).all())
