"""A model under a plan, ready to be trained for a few steps."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from parity.tiny import LIMIT, RATE, STEPS, make_batches
from qwenft_plan.plan import Plan
from qwenft_plan.spec import Lora, Training
from qwenft_trainer.batch import Batch, local_rows
from qwenft_trainer.mesh import build_mesh
from qwenft_trainer.model import read_config
from qwenft_trainer.optim import build_optimizer
from qwenft_trainer.stages import Stages, build_stages
from qwenft_trainer.weights import Checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """Stages and their optimizer."""

    stages: Stages
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Stand:
    """One plan's mesh, and the model directory that it is tried on."""

    plan: Plan
    mesh: DeviceMesh
    model: Path

    @classmethod
    def of(cls, plan: Plan, model: Path) -> Self:
        """Lay out the plan's mesh."""
        return cls(plan=plan, mesh=build_mesh(plan, "cpu"), model=model)

    def build(self, **options: Any) -> Built:
        """Build the stages with the directory's weights."""
        config = read_config(self.model)
        source = Checkpoint(path=self.model)
        lora = options.pop("lora", None)
        torch.manual_seed(options.pop("seed", 0))
        adapters = None if lora is None else Lora(**lora)
        stages = build_stages(self.plan, self.mesh, config, source, lora=adapters, **options)
        optimizer = build_optimizer(
            stages, Training(learning_rate=RATE, optimizer=self.plan.optimizer)
        )
        return Built(stages=stages, optimizer=optimizer)

    def share(self, batch: Batch) -> Batch:
        """Return this rank's rows."""
        return batch.rows(local_rows(len(batch), self.plan, self.mesh))


def train_steps(
    stand: Stand,
    built: Built,
    *,
    begin: int = 0,
    end: int = STEPS,
    step: Callable[[Batch], Tensor] | None = None,
) -> list[list[float]]:
    """Train from step ``begin`` to ``end``: [loss, norm] of each. ``step`` may replace it."""
    points = []
    for raw in make_batches()[begin:end]:
        batch = Batch.from_rows(**raw)
        if step is not None:
            loss = step(stand.share(batch))
        else:
            tokens = int(batch.trained_tokens)
            loss = built.stages.train_step(stand.share(batch), trained_tokens=tokens)
        points.append(finish_step(built, loss))
    return points


def finish_step(built: Built, loss: Tensor) -> list[float]:
    """Clip, step, forget the gradients; [loss, norm]."""
    norm = built.stages.clip(LIMIT)
    built.optimizer.step()
    built.stages.zero_grad()
    return [float(loss), float(norm)]
