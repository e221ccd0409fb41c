"""What a finished run teaches: predicted and measured, as its status tells. Pure.

A run teaches once: its status says so afterwards, and the lessons know it by its uid, so that an
operator that dies between the two writes repeats neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenft_operator import names
from qwenft_operator.run import Run
from qwenft_plan.lessons import Experience, Pair

__all__ = ["Finding", "finding_of"]

_LEAST_STEPS = 10
"""Steps below which a run's speed says more of its start than of its plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A finished run and the kind of run that it was."""

    kind: str
    """Key of the lessons."""
    experience: Experience

    def to_status(self) -> dict[str, Any]:
        """Return ``status.lesson``."""
        memory, speed = self.experience.memory, self.experience.speed
        if not self.experience.is_sane:
            told = (
                f"measured {speed.measured:.4g} tokens/s and {memory.measured:.4g} GiB where "
                f"{speed.predicted:.4g} and {memory.predicted:.4g} were predicted: not believed"
            )
            return {"kind": self.kind, "ignored": told}
        ratios = {"speed": speed.ratio, "memory": memory.ratio}
        return {"kind": self.kind} | {key: float(f"{ratios[key]:.4g}") for key in ratios}


def finding_of(run: Run) -> Finding | None:
    """Return what the run teaches; None while it runs, once it has taught, without numbers."""
    status = run.status
    if run.phase != names.SUCCEEDED or "lesson" in status:
        return None
    plan, result = _part(status, "plan"), _part(status, "result")
    kind, predicted = str(plan.get("kind", "")), _part(plan, "predicted")
    if not kind or _number(result, "steps") < _LEAST_STEPS:
        return None
    measured = _part(status, "measured") | {
        key: result[key] for key in ("memoryGiB", "tokensPerSecond") if key in result
    }
    correction = _part(plan, "correction")
    memory = _pair(predicted, measured, "memoryGiB", _number(correction, "memory", 1.0))
    speed = _pair(predicted, measured, "tokensPerSecond", _number(correction, "speed", 1.0))
    if memory is None or speed is None:
        return None
    experience = Experience(
        run=run.owner.uid,
        ended=str(status.get("completionTime", "")),
        memory=memory,
        speed=speed,
        mfu=_pair(predicted, measured, "mfu", _number(correction, "speed", 1.0)),
    )
    return Finding(kind=kind, experience=experience)


def _part(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = mapping.get(key)
    return dict(found) if isinstance(found, Mapping) else {}


def _number(mapping: Mapping[str, Any], key: str, default: float = 0.0) -> float:
    value = mapping.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return float(value)


def _pair(
    predicted: Mapping[str, Any], measured: Mapping[str, Any], key: str, factor: float
) -> Pair | None:
    """Return the pair with the prediction as it was before ``factor`` corrected it."""
    told, seen = _number(predicted, key), _number(measured, key)
    if told <= 0 or seen <= 0 or factor <= 0:
        return None
    return Pair(predicted=told / factor, measured=seen)
