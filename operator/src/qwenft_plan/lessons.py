"""What finished runs taught: bounded corrections of predictions, by device, family and shape.

The operator keeps measured over predicted values of its own runs in a ConfigMap, one key a kind
of run. A correction is the median ratio, drawn towards one while runs are few, and never leaves its
bounds: wrong or hostile measurements can shift a prediction by so much and no more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from qwenft_plan.workload import Layout, Workload

__all__ = ["NO_LESSONS", "UNTAUGHT", "Lesson", "Lessons", "lesson_key"]

SPEED_BOUNDS = (0.7, 1.3)
"""Measured over predicted speed stays within these."""

MEMORY_BOUNDS = (0.97, 1.25)
"""Measured over predicted memory: more is believed sooner than less, which could end in a crash."""

_KEPT = 16
_PRIOR = 2.0  # runs that the untaught prediction weighs as much as
_MOST_TEXT = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """Factors on predicted speed and memory, and the number of runs behind them."""

    speed: float = 1.0
    memory: float = 1.0
    runs: int = 0


UNTAUGHT = Lesson()
"""The correction before any run has finished: none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lessons:
    """Everything learnt so far: key → (speed ratio, memory ratio) of each run, oldest first."""

    ratios: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)

    @classmethod
    def from_data(cls, data: Mapping[str, str]) -> Lessons:
        """Read a ConfigMap's data; what cannot be read counts for nothing."""
        return cls(ratios={key: _read(text) for key, text in sorted(data.items())})

    def lesson(self, key: str) -> Lesson:
        """Return the correction for one kind of run."""
        pairs = self.ratios.get(key, ())
        if not pairs:
            return Lesson()
        return Lesson(
            speed=_factor([speed for speed, _ in pairs], SPEED_BOUNDS),
            memory=_factor([memory for _, memory in pairs], MEMORY_BOUNDS),
            runs=len(pairs),
        )

    def after(self, key: str, *, speed: float, memory: float) -> Lessons:
        """Return the lessons with one more run's measured over predicted ratios."""
        if not (_sane(speed) and _sane(memory)):
            return self
        pairs = (*self.ratios.get(key, ()), (round(speed, 4), round(memory, 4)))[-_KEPT:]
        return Lessons(ratios={**self.ratios, key: pairs})

    def to_data(self) -> dict[str, str]:
        """Return the ConfigMap's data; equal lessons give equal bytes."""
        return {key: json.dumps(pairs) for key, pairs in sorted(self.ratios.items()) if pairs}


NO_LESSONS = Lessons()
"""Before the first run has finished."""


def lesson_key(work: Workload, layout: Layout) -> str:
    """Return the ConfigMap key of a kind of run: device, model family, method and plan shape."""
    family = "qwen3" if work.model.qk_norm else "qwen2" if work.model.qkv_bias else "llama"
    shape = f"tp{layout.tp}.pp{layout.pp}.{layout.checkpointing}"
    return f"{work.device.name}.{family}.{work.method.kind}.{work.precision}.{shape}"


def _factor(ratios: list[float], bounds: tuple[float, float]) -> float:
    """Median ratio, shrunk towards one on the logarithm, within its bounds."""
    weight = len(ratios) / (len(ratios) + _PRIOR)
    value = math.exp(weight * math.log(median(ratios)))
    return min(max(value, bounds[0]), bounds[1])


def _sane(value: object) -> bool:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return good and 0.01 < value < 100  # type: ignore[operator]  # noqa: PLR2004 - NaN is neither


def _read(text: str) -> tuple[tuple[float, float], ...]:
    try:
        pairs: Any = json.loads(text[:_MOST_TEXT])
    except (ValueError, RecursionError):
        return ()
    if not isinstance(pairs, list):
        return ()
    good = [
        (float(pair[0]), float(pair[1]))
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and all(map(_sane, pair))  # noqa: PLR2004
    ]
    return tuple(good[-_KEPT:])
