"""Cross-entropy as a sum, computed where the logits are.

The loss of a step is (sum of cross-entropy) / (trained tokens of the *whole* step). Averages of
averages never appear: with rows of unequal length they weigh tokens by the company they keep, and
the result then depends on the plan. Everything here therefore returns sums.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.nn import functional

IGNORED = -100
"""The label of a token that is read but not trained on."""
CHUNK_TOKENS = 512
"""Tokens whose logits exist at once: 0.3 GB in fp32 for a vocabulary of 151,936. Products over a
quarter as many take a tenth longer."""


class LossHead(nn.Linear):
    """The output projection, which also computes the loss.

    Joining the two keeps ``vocabulary × tokens`` logits from ever existing as a whole, and puts
    the projection's use inside its own ``forward``, where sharded parameters are gathered.

    With ``chunks`` the loss runs over chunks of tokens through
    :func:`torch.nn.functional.linear_cross_entropy`; with a vocabulary-sharded weight the softmax
    is reduced over the shards instead; with neither the logits exist once (all give the same
    numbers).
    """

    def __init__(
        self, hidden: int, vocabulary: int, chunks: nn.LinearCrossEntropyOptions | None
    ) -> None:
        super().__init__(hidden, vocabulary, bias=False)
        self.chunks = chunks

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Map ``hidden`` [B, T, H] to logits [B, T, V], or with ``targets`` [B, T] to a sum [1]."""
        if targets is None:
            return super().forward(hidden)
        if isinstance(hidden, DTensor):
            total = sharded_loss_sum(super().forward(hidden), targets)
        elif self.chunks is not None:
            total = chunked_loss_sum(hidden, self.weight, targets, self.chunks)
        else:
            total = loss_sum(super().forward(hidden), targets)
        # A view would lose the hooks that gather parameters before backward.
        return total.float().reshape(1).clone()


def loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum the cross-entropy of logits [B, T, V] over the trained targets [B, T], in fp32."""
    flat = logits.flatten(0, 1).float()
    return functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="sum")


def sharded_loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum the cross-entropy of vocabulary-sharded logits; needs an active ``loss_parallel``."""
    total = loss_sum(logits, targets)
    assert isinstance(total, DTensor)  # noqa: S101 - an invariant of loss_parallel
    return total.redistribute(placements=[Replicate()]).to_local()


def chunked_loss_sum(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunks: nn.LinearCrossEntropyOptions
) -> Tensor:
    """Sum the cross-entropy of ``hidden`` @ ``weight``ᵀ without the logits in memory at once."""
    rows, labels = hidden.flatten(0, 1), targets.flatten()
    if not rows.is_cuda:  # where counting would make the device wait
        rows, labels = _trained(rows, labels)
    if rows.dtype is not torch.float32:
        return _loss_of_chunks(rows, weight, labels)
    return functional.linear_cross_entropy(
        rows, weight, labels, ignore_index=IGNORED, reduction="sum", options=chunks
    )


def _trained(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out what is not trained on, except one row where nothing is: gradients must come."""
    which = (labels != IGNORED).nonzero().flatten()
    if len(which) == len(labels):
        return rows, labels
    which = which if len(which) else which.new_zeros(1)
    return rows.index_select(0, which), labels[which]


class _LossOfChunks(torch.autograd.Function):
    """The sum over chunks of tokens in fp32, whose gradients are computed along with it.

    Each chunk's logits exist once. torch's own chunked operation returns the sum in the input's
    type, and a sum in bf16 is off by up to 0.4 %.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """Return the sum, 0-dim fp32, of ``rows`` [N, H] @ ``weight`` [V, H]ᵀ."""
        total = torch.zeros((), device=rows.device)
        for_rows, for_weight = (
            torch.zeros_like(value) if needed else None
            for value, needed in zip((rows, weight), ctx.needs_input_grad, strict=False)
        )
        for begin in range(0, len(rows), CHUNK_TOKENS):
            chunk = slice(begin, begin + CHUNK_TOKENS)
            some, logits = _loss_and_gradient(rows[chunk] @ weight.T, labels[chunk])
            total += some
            trained = (labels[chunk] != IGNORED)[:, None]
            if for_rows is not None:
                torch.mm(logits, weight, out=for_rows[chunk]).mul_(trained)
            if for_weight is not None:
                for_weight.addmm_(logits.T, rows[chunk] * trained)
        ctx.save_for_backward(for_rows, for_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Scale the gradients that forward left."""
        for_rows, for_weight = (
            None if each is None else each.mul_(outer[0]) for each in ctx.saved_tensors
        )
        return for_rows, for_weight, None


def _loss_and_gradient(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum over trained ``labels`` [N], and the gradient of ``logits`` [N, V].

    The gradient is in the logits' type and also there where nothing is trained.
    """
    shares = functional.log_softmax(logits, dim=-1, dtype=torch.float32)
    at = labels.clamp(min=0)[:, None]
    total = -(shares.gather(1, at)[:, 0] * (labels != IGNORED)).sum()
    gradient = shares.exp_().scatter_add_(1, at, shares.new_full(at.shape, -1.0))
    return total, gradient.to(logits.dtype)


def _loss_of_chunks(rows: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Sum in fp32 chunk by chunk; without gradients where none are wanted."""
    if torch.is_grad_enabled():
        total: Tensor = _LossOfChunks.apply(rows, weight, labels)
        return total
    total = torch.zeros((), device=rows.device)
    for begin in range(0, len(rows), CHUNK_TOKENS):
        chunk = slice(begin, begin + CHUNK_TOKENS)
        total += loss_sum((rows[chunk] @ weight.T)[None], labels[None, chunk])
    return total
