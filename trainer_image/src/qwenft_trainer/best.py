"""The model of the lowest validation loss, where that is not the last one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qwenft_trainer.checkpoint import CheckpointStore
from qwenft_trainer.settings import Settings
from qwenft_trainer.stages import Stages


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """A step, its validation loss (None: not evaluated), and where its exported model lies."""

    step: int
    validation_loss: float | None
    path: Path

    def to_mapping(self) -> dict[str, Any]:
        """Return the entries of ``result.json``."""
        loss = self.validation_loss
        return {"bestStep": self.step, "bestValidationLoss": loss, "bestPath": str(self.path)}


def export_best(
    store: CheckpointStore,
    stages: Stages,
    optimizer: torch.optim.Optimizer,
    last: Best,
    settings: Settings,
    export: Callable[[Path], None],
) -> Best:
    """Export the best checkpoint unless ``last``, exported already, is as good; returns the best.

    Leaves its weights in ``stages``. Collective.
    """
    found = store.best()
    if found is None or found.validation_loss is None:
        return last
    if last.validation_loss is not None and last.validation_loss <= found.validation_loss:
        return last
    if store.restore_best(stages, optimizer) is None:
        return last
    export(settings.best_directory)
    loss = found.validation_loss
    return Best(step=found.step, validation_loss=loss, path=settings.best_directory)
