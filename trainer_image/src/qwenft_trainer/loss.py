"""Cross-entropy as a sum, computed where the logits are.

The loss of a step is (sum of cross-entropy) / (trained tokens of the *whole* step). Averages of
averages never appear: with rows of unequal length they weigh tokens by the company they keep, and
the result then depends on the plan. Everything here therefore returns sums.
"""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.nn import functional

IGNORED = -100
"""The label of a token that is read but not trained on."""


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
    return functional.linear_cross_entropy(
        hidden.flatten(0, 1),
        weight,
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        options=chunks,
    )
