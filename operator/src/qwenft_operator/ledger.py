"""What the operator knows of all runs at once: a cache for the metrics, filled by every look. Pure.

One small value a run, read from its status. A run that is gone is dropped, and with it every series
that names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qwenft_operator import names
from qwenft_operator.clock import parse_time

__all__ = ["CAUSES", "OTHER", "Change", "Figures", "Ledger", "change_of"]

OTHER = "Other"
"""The cause of restarts and failures whose reason is not one of the operator's."""
CAUSES = (
    *names.REASONS.values(), "NodeLost", "PodDeleted", "JobDeleted", "Hung", "BackingOff",
    "DeadlineExceeded", "Infeasible", "InvalidSpec", "NameInUse", "Refused", "ModelInvalid",
    "OutputInvalid",
    "OOMKilled", "EvictionByEvictionAPI", "DeletionByTaintManager", "PreemptionByScheduler",
    "TerminationByKubelet", "DeletionByPodGC", "Evicted", OTHER,
)  # fmt: skip
"""Every value of the label ``cause``."""
_PHASES = (names.PENDING, names.QUEUED, names.STARTING, names.TRAINING, names.RESTARTING,
           names.SUSPENDED, names.SUCCEEDED, names.FAILED)  # fmt: skip
_LINGERS = 600.0
"""Seconds that the figures of a run are shown after its end: several scrapes."""

Place = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What the metrics tell of one run."""

    namespace: str
    name: str
    uid: str
    phase: str
    ended_at: float | None = None
    """Seconds since the epoch."""
    values: tuple[tuple[str, float], ...] = ()
    """Name of a series without its prefix, and its value."""
    errors: tuple[tuple[str, float], ...] = ()
    """Quantity (``memory``, ``tokens_per_second``, ``mfu``) and predicted / measured."""

    @classmethod
    def from_object(cls, body: Mapping[str, Any]) -> Figures:
        """Read the API object; a run without a status is pending."""
        metadata, status = body["metadata"], body.get("status") or {}
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            phase=status.get("phase") or names.PENDING,
            ended_at=parse_time(status.get("completionTime")),
            values=tuple(_values(status)),
            errors=tuple(_errors(status)),
        )

    def is_current(self, now: float) -> bool:
        """Tell whether its own series are shown: it is alive, or has ended a moment ago."""
        if self.phase not in names.TERMINAL:
            return True
        return self.ended_at is not None and now - self.ended_at < _LINGERS


_SERIES = (
    ("step", "progress", "step"),
    ("total_steps", "progress", "totalSteps"),
    ("loss", "progress", "loss"),
    ("validation_loss", "progress", "validationLoss"),
    ("gradient_norm", "progress", "gradientNorm"),
    ("learning_rate", "progress", "learningRate"),
    ("remaining_seconds", "progress", "estimatedRemainingSeconds"),
    ("tokens_per_second", "measured", "tokensPerSecond"),
    ("mfu", "measured", "mfu"),
    ("checkpoint_step", "checkpoint", "step"),
)
_GIB = 2**30


def _number(status: Mapping[str, Any], section: str, field: str) -> float | None:
    value = (status.get(section) or {}).get(field)
    return None if value is None else float(value)


def _values(status: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    if "attempt" in status:
        yield "attempt", float(status["attempt"])
    trains = status.get("phase") == names.TRAINING
    for series, section, field in _SERIES:
        value = _number(status, section, field)
        if value is not None and (trains or series != "remaining_seconds"):
            yield series, value
    memory = _number(status, "measured", "memoryGiB")
    if memory is not None:
        yield "memory_bytes", memory * _GIB


def _errors(status: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    predicted = (status.get("plan") or {}).get("predicted") or {}
    for quantity, field in (
        ("memory", "memoryGiB"),
        ("tokens_per_second", "tokensPerSecond"),
        ("mfu", "mfu"),
    ):
        measured = _number(status, "measured", field)
        if measured and predicted.get(field) is not None:
            yield quantity, float(predicted[field]) / measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What one status write says that a counter has to count."""

    restarts: int = 0
    failed: bool = False
    cause: str = ""
    """Of the restart or the failure."""
    waited: float | None = None
    """Seconds from the run's creation to its first trained step, at the write that tells it."""


def change_of(body: Mapping[str, Any], status: Mapping[str, Any], now: float) -> Change:
    """Compare a run's object as it was read with the status that is written over it."""
    old = body.get("status") or {}
    restarts = max(0, status.get("restarts", 0) - old.get("restarts", 0))
    failed = status.get("phase") == names.FAILED != old.get("phase")
    return Change(
        restarts=restarts,
        failed=failed,
        cause=_cause(status, failed=failed) if restarts or failed else "",
        waited=_waited(body, status, now),
    )


def _cause(status: Mapping[str, Any], *, failed: bool) -> str:
    """Return the reason of the end, a name out of a fixed set: labels are bounded."""
    failures = status.get("failures") or ()
    told = (status.get("failure") or (failures[-1] if failures else {})).get("reason")
    if failed and not told:
        conditions = status.get("conditions") or ()
        told = next((c["reason"] for c in conditions if c["type"] == names.STALLED), None)
    return told if told in CAUSES else OTHER


def _waited(body: Mapping[str, Any], status: Mapping[str, Any], now: float) -> float | None:
    before = ((body.get("status") or {}).get("progress") or {}).get("step")
    created = parse_time(body["metadata"].get("creationTimestamp"))
    if before or not (status.get("progress") or {}).get("step") or created is None:
        return None
    return max(0.0, now - created)


class Ledger:
    """The newest figures of every run, by namespace and name."""

    def __init__(self) -> None:
        self._runs: dict[Place, Figures] = {}

    def keep(self, figures: Figures) -> None:
        """Take the newest figures of a run."""
        self._runs[figures.namespace, figures.name] = figures

    def drop(self, namespace: str, name: str) -> None:
        """Forget a run that is gone."""
        self._runs.pop((namespace, name), None)

    def retain(self, places: Iterable[Place]) -> None:
        """Forget every run but these: what a whole list of the cluster does not show is gone."""
        kept = set(places)
        self._runs = {place: item for place, item in self._runs.items() if place in kept}

    def phases(self) -> dict[str, int]:
        """Return how many runs are in each phase; all phases are there."""
        counts = Counter(item.phase for item in self._runs.values())
        return {phase: counts[phase] for phase in _PHASES}

    def current(self, now: float, most: int) -> tuple[Figures, ...]:
        """Return the runs to be shown one by one, at most ``most``: those that train come first."""
        shown = [item for item in self._runs.values() if item.is_current(now)]
        shown.sort(key=lambda item: (item.phase != names.TRAINING, item.namespace, item.name))
        return tuple(shown[:most])
