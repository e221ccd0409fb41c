"""What a run has been through, as its status remembers it.

Only what cannot be derived again from the cluster: counters, recorded failures and times. All else
in the status is a report and is never read back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenft_operator import names
from qwenft_operator.clock import parse_time
from qwenft_operator.failure import Failure
from qwenft_operator.policies import unschedulable

__all__ = ["KEPT_FAILURES", "History"]

KEPT_FAILURES = 5
_NODE_REASONS = ("WorkerError", "NodeLost")
_REPEATED = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """The durable part of the status."""

    phase: str = ""
    attempt: int = 0
    restarts: int = 0
    retries: int = 0
    """Restarts that count against ``backoffLimit``."""
    failures: tuple[Failure, ...] = ()
    suspended_attempt: int = 0
    """The newest attempt that suspending ended, whatever its Job and its pods look like since."""
    suspect: Failure | None = None
    """An ending seen before its attempt was over: pods may vanish before they can be judged."""
    started_at: float | None = None
    completed_at: float | None = None
    plan: str = ""
    """Digest of the newest plan."""
    plan_nodes: int = 0
    started_nodes: int = 0
    """Nodes of the first attempt."""
    growths: int = 0
    """How often an attempt was ended for a plan with more nodes."""
    plan_memory: float = 0.0
    """GiB a device that the newest plan was expected to need."""
    trained_attempt: int = 0
    """The newest attempt of which a trained step was reported."""
    reported_at: float | None = None
    """When the newest report came."""
    step: int | None = None
    is_at_its_end: bool = False
    """Whether the newest report was that of the last step."""
    seconds_per_step: float | None = None
    """Pace of the newest report, by its own estimate of what remains."""
    memory_budget: float | None = None
    """GiB a device that a plan may count on, learnt from out-of-memory failures."""
    checkpoint_step: int | None = None
    """Step of the newest checkpoint that was reported."""
    went_back: bool = False
    """Whether an attempt has already gone on from an older checkpoint than the newest."""
    before_step: int | None = None
    """Only checkpoints of earlier steps are good; None once newer ones have replaced the others."""
    memory_raised: bool = False
    """Whether the memory request was raised after the kernel had killed a container."""

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> History:
        """Read a status that the operator wrote; an empty one is a new run's."""
        plan = status.get("plan") or {}
        progress = status.get("progress") or {}
        failures = tuple(Failure.from_status(entry) for entry in status.get("failures") or ())
        return cls(
            phase=status.get("phase", ""),
            attempt=status.get("attempt", 0),
            restarts=status.get("restarts", 0),
            retries=status.get("retries", 0),
            failures=failures,
            suspended_attempt=status.get("suspendedAttempt", 0),
            suspect=_suspect(status.get("failure"), failures),
            started_at=parse_time(status.get("startTime")),
            completed_at=parse_time(status.get("completionTime")),
            plan=plan.get("digest", ""),
            plan_nodes=plan.get("nodes", 0),
            started_nodes=status.get("startedNodes", 0),
            growths=status.get("growths", 0),
            plan_memory=(plan.get("predicted") or {}).get("memoryGiB", 0.0),
            trained_attempt=progress.get("attempt", 0) if progress.get("step") else 0,
            reported_at=parse_time(progress.get("lastUpdatedTime")),
            step=progress.get("step"),
            is_at_its_end=0 < progress.get("totalSteps", 0) <= (progress.get("step") or 0),
            seconds_per_step=_pace(progress),
            memory_budget=status.get("memoryBudgetGiB"),
            checkpoint_step=(status.get("checkpoint") or {}).get("step"),
            went_back="checkpointBeforeStep" in status,
            before_step=_before_step(status),
            memory_raised="memoryPerNodeGiB" in status,
        )

    @property
    def live_attempt(self) -> int:
        """The attempt that has a Job, by all that is remembered; 0 where none ought to have one."""
        ended = self.phase in names.TERMINAL or self.attempt == self.suspended_attempt
        return 0 if ended or self.failure_of(self.attempt) is not None else self.attempt

    def failure_of(self, attempt: int) -> Failure | None:
        """Return the recorded failure of an attempt."""
        return next((item for item in self.failures if item.attempt == attempt), None)

    @property
    def released(self) -> int:
        """How many of the newest attempts in a row gave their nodes back, of those remembered."""
        placed = (item.reason != unschedulable.REASON for item in reversed(self.failures))
        return next((n for n, found in enumerate(placed) if found), len(self.failures))

    def failed_nodes(self) -> tuple[str, ...]:
        """Return the nodes on which attempts failed again and again, by no fault of the run."""
        counts = Counter(
            item.node for item in self.failures if item.node and item.reason in _NODE_REASONS
        )
        return tuple(sorted(node for node, count in counts.items() if count >= _REPEATED))


def _suspect(entry: Mapping[str, Any] | None, failures: tuple[Failure, ...]) -> Failure | None:
    if not entry or any(item.attempt == entry["attempt"] for item in failures):
        return None
    return Failure.from_status(entry)


def _before_step(status: Mapping[str, Any]) -> int | None:
    """Return the bound on checkpoints; a checkpoint at or after it was written anew since."""
    bound: int | None = status.get("checkpointBeforeStep")
    newest = (status.get("checkpoint") or {}).get("step")
    if bound is None or (newest is not None and newest >= bound):
        return None
    return bound


def _pace(progress: Mapping[str, Any]) -> float | None:
    left = progress.get("totalSteps", 0) - progress.get("step", 0)
    remaining = progress.get("estimatedRemainingSeconds")
    return remaining / left if remaining is not None and left > 0 else None
