"""The optimizer, its learning rate at each step, and how many steps a run has."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from qwenft_plan.spec import Training
from qwenft_trainer.adam8bit import AdamW8bit
from qwenft_trainer.failure import DatasetInvalid
from qwenft_trainer.stages import Stages


def build_optimizer(stages: Stages, training: Training) -> torch.optim.Optimizer:
    """Return AdamW over this rank's shards; matrices decay, biases and norms do not.

    Its moments are numbers of 32 or of 8 bits, as `training.optimizer` says.
    """
    named = list(stages.trained_parameters())
    groups = [
        {"params": _those(named, decaying=True), "weight_decay": training.weight_decay},
        {"params": _those(named, decaying=False), "weight_decay": 0.0},
    ]
    present = [group for group in groups if group["params"]]
    if training.optimizer == "adamw8bit":
        return AdamW8bit(present, lr=training.learning_rate)
    return torch.optim.AdamW(present, lr=training.learning_rate, fused=True)


def _those(named: list[tuple[str, nn.Parameter]], *, decaying: bool) -> list[nn.Parameter]:
    return [value for _, value in named if (value.dim() > 1) == decaying]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(training: Training, step: int, total: int) -> float:
    """Return the learning rate of optimizer step ``step`` (from 0) of ``total``.

    A linear warm-up reaches the full rate with its last step; then the schedule runs from 1 to 0
    over what is left.
    """
    warmup = training.warmup_steps
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return training.learning_rate * _SCHEDULES[training.scheduler](min(done, 1.0))


def _constant(_done: float) -> float:
    return 1.0


def _linear(done: float) -> float:
    return 1.0 - done


def _cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


_SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
}


def total_steps(training: Training, samples: int) -> int:
    """Return the optimizer steps of a run: whole batches only, at most ``max_steps``.

    Raises :class:`DatasetInvalid` if there are fewer samples than one batch.
    """
    per_epoch = samples // training.batch_size
    if per_epoch == 0:
        raise DatasetInvalid(
            f"the dataset has {samples} samples to train on, fewer than one batch "
            f"(training.batchSize {training.batch_size})"
        )
    steps = training.epochs * per_epoch
    return steps if training.max_steps is None else min(steps, training.max_steps)


def due(step: int, every: int | None) -> bool:
    """Tell whether something that happens every so many steps happens after ``step``."""
    return every is not None and step % every == 0
