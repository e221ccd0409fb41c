"""What the built-in loop works on, and how far it is."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from qwenft_trainer.checkpoint import CheckpointStore
from qwenft_trainer.feed import Feed
from qwenft_trainer.meter import Meter
from qwenft_trainer.preemption import StopSignal
from qwenft_trainer.saver import Saver
from qwenft_trainer.settings import Settings
from qwenft_trainer.stages import Stages
from qwenft_trainer.watchdog import Watchdog


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything that the loop works on, and how far it is."""

    settings: Settings
    stages: Stages
    optimizer: torch.optim.Optimizer
    store: CheckpointStore
    training: Feed
    validation: Feed | None
    total: int
    meter: Meter
    stop: StopSignal
    watchdog: Watchdog
    model_source: Path
    saver: Saver
    step: int = 0
    before: float | None = None
    lowest: float | None = None
    trained_tokens: int = 0
    seconds_before: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Return the seconds that this run has taken, earlier attempts included."""
        return self.seconds_before + time.monotonic() - self.began


def say(message: str) -> None:
    """Print a line once."""
    if dist.get_rank() == 0:
        print(message, flush=True)  # noqa: T201 - the log of the pod
