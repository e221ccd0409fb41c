"""What is measured, and within how many seconds each of it has to happen."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

__all__ = ["DEMANDS", "LEAST_ROUNDS", "Demand", "Samples"]

LEAST_ROUNDS = 10
"""Fewer prove nothing, however quick they were."""

Samples = dict[str, list[float]]
"""Demand's key → seconds, one number a round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """One event, and the most that the median of its rounds may take."""

    key: str
    what: str
    most: float

    def met(self, seconds: list[float]) -> bool:
        """Whether the median of enough rounds is within the limit."""
        return len(seconds) >= LEAST_ROUNDS and median(seconds) <= self.most


DEMANDS = tuple(
    Demand(key=key, what=what, most=most)
    for key, what, most in (
        ("start", "apply → first step trained", 15.0),
        ("rank", "a rank killed → next new step trained", 12.0),
        ("pod", "a pod deleted → next new step trained", 14.0),
        ("node", "a node killed → next new step trained", 25.0),
        ("node_by_default", "the same, by Kubernetes' own settings", 75.0),
        ("suspend", "suspended → pods gone, less the time of a save", 5.0),
        ("operator", "operator killed → its successor has acted on an edit", 5.0),
    )
)
"""A new step is one of a higher number than any that was trained before."""
