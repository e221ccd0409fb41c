"""Being asked to stop: one rank hears it, all ranks act on it after the same step."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from qwenft_trainer.mesh import pick_device


class StopSignal:
    """Context in which SIGTERM is noted instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        """Start listening."""
        self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the former handler back."""
        signal.signal(signal.SIGTERM, self._previous)

    def anywhere(self, *, also: bool = False) -> tuple[bool, bool]:
        """Tell whether any rank was asked to stop, and whether ``also`` is true of any.

        Collective: the same answer everywhere.
        """
        flags = torch.tensor((float(self.requested), float(also)), device=pick_device())
        if dist.get_world_size() > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        stop, other = flags.tolist()
        return bool(stop), bool(other)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
