"""Reports of trainers that know only the upstream protocol, KEP-2779 (Hugging Face's callback)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qwenft_plan.errors import SpecError
from qwenft_plan.progress import Progress

__all__ = ["progress_from_upstream"]

_MOST_METRICS = 256
_NAMES = {
    "loss": "loss",
    "train_loss": "loss",
    "eval_loss": "validation_loss",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
}
_STEPS, _TOTALS = ("step", "global_step", "current_step"), ("total_steps", "max_steps")


def progress_from_upstream(status: Mapping[str, Any], attempt: int) -> Progress:
    """Read ``trainerStatus``; where it counts no steps, percent stand for them.

    Raises :class:`SpecError` when it tells of no progress at all.
    """
    metrics = _metrics(status)
    percent = _number(status.get("progressPercentage"))
    step = next((metrics[name] for name in _STEPS if name in metrics), percent)
    total = next((metrics[name] for name in _TOTALS if name in metrics), None)
    if step is None or not 0 <= step < 2**53:
        raise SpecError("trainerStatus.progressPercentage", "is missing from the report")
    known: dict[str, Any] = {
        ours: metrics[theirs] for theirs, ours in _NAMES.items() if theirs in metrics
    }
    return Progress(
        attempt=attempt,
        step=int(step),
        total_steps=int(total) if total is not None and total >= 0 else _total(step, percent),
        estimated_remaining_seconds=_number(status.get("estimatedRemainingSeconds")),
        **known,
    )


def _total(step: float, percent: float | None) -> int:
    return round(step * 100 / percent) if percent else 100


def _metrics(status: Mapping[str, Any]) -> dict[str, float]:
    entries = status.get("metrics")
    if not isinstance(entries, list):
        return {}
    found = {}
    for entry in entries[:_MOST_METRICS]:
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
            value = _number(entry.get("value"))
            if value is not None:
                found[entry["name"]] = value
    return found


def _number(value: object) -> float | None:
    """Numbers come as numbers or as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
