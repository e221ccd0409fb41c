"""Gradients that are computed in forward and handed over in backward.

A pipeline interleaves forward and backward, so the user's ``model(…)`` runs both and ``backward()``
only has to deliver. The new gradients wait by reference, nothing is copied; they are scaled by
what comes in from above, so ``(loss / n).backward()`` and accumulation keep their meaning.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qwenft_trainer.blame import refuse
from qwenft_trainer.gradients import local


@contextmanager
def set_aside(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Keep the user's gradients out of the way, by reference, and put them back.

    Needed for evaluations too: a pipeline's set-up clears the gradients that it finds.
    """
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


class Held:
    """The gradients of one forward call, until its backward comes."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.gradients: list[Tensor | None] | None = None

    def compute(self, step: Callable[[], Tensor]) -> Tensor:
        """Run ``step`` with the user's gradients set aside, keep its own, return its result."""
        with set_aside(self.parameters):
            result = step()
            self.gradients = [parameter.grad for parameter in self.parameters]
        return result

    def deliver(self, scale: Tensor) -> None:
        """Add the gradients, times ``scale``, to the parameters'."""
        if self.gradients is None:
            refuse(
                "backward() came a second time for one loss",
                "call the model again to get a new loss (retain_graph has no effect under a plan)",
            )
        # Asking a GPU would wait for it, which costs more than the multiplication.
        unscaled = scale.device.type == "cpu" and scale.item() == 1.0
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if gradient is None:
                continue
            if not unscaled:
                local(gradient).mul_(scale)
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad.add_(gradient)
        self.gradients = None


class _HandOver(torch.autograd.Function):
    """A loss whose backward delivers; its one input only makes autograd call it."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, loss: Tensor, held: Held) -> Tensor:
        """Return the loss as it is."""
        del anchor
        ctx.held = held
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        """Deliver the held gradients."""
        ctx.held.deliver(gradients[0])
        return None, None, None


def hand_over(loss: Tensor, held: Held) -> Tensor:
    """Return ``loss`` as a tensor whose ``backward()`` delivers the held gradients."""
    with torch.enable_grad():
        anchor = torch.zeros((), device=loss.device, requires_grad=True)
        result: Tensor = _HandOver.apply(anchor, loss, held)
    return result


def is_handed_over(value: object) -> bool:
    """Tell whether a tensor is a loss made by :func:`hand_over`."""
    return isinstance(value, Tensor) and type(value.grad_fn).__name__ == "_HandOverBackward"
