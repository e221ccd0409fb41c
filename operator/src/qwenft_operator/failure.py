"""Why an attempt ended: the one cause among the endings of its pods. Pure.

When one rank dies its peers lose their connections and end too, each with an error of its own. The
cause is the earliest ending that is no such consequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenft_operator import names
from qwenft_operator.clock import format_time, parse_time
from qwenft_operator.observe import JobView, Observed, PodView

__all__ = ["Failure", "cause_of", "of_pod", "telling"]

_COMMUNICATION, _PREEMPTED, _WORKER = 69, 64, 70
_TERMINATED = (143, 137)
_CONSEQUENCES = (_COMMUNICATION, _PREEMPTED, *_TERMINATED)
_LONGEST_MESSAGE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The cause of one attempt's end."""

    attempt: int
    reason: str
    message: str
    rank: int | None = None
    pod: str = ""
    node: str = ""
    exit_code: int | None = None
    step: int | None = None
    """Optimizer step at which it happened, where known."""
    time: float = 0.0
    """When the operator recorded it, seconds since the epoch."""

    def to_status(self) -> dict[str, Any]:
        """Return the entry of ``status.failures``; unknown fields are left out."""
        values: dict[str, Any] = {
            "attempt": self.attempt,
            "rank": self.rank,
            "pod": self.pod or None,
            "node": self.node or None,
            "exitCode": self.exit_code,
            "reason": self.reason,
            "message": self.message[:_LONGEST_MESSAGE],
            "step": self.step,
            "time": format_time(self.time),
        }
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_status(cls, entry: Mapping[str, Any]) -> Failure:
        """Read an entry of ``status.failures``."""
        return cls(
            attempt=entry["attempt"],
            reason=entry["reason"],
            message=entry.get("message", ""),
            rank=entry.get("rank"),
            pod=entry.get("pod", ""),
            node=entry.get("node", ""),
            exit_code=entry.get("exitCode"),
            step=entry.get("step"),
            time=parse_time(entry.get("time")) or 0.0,
        )

    @property
    def may_be_consequence(self) -> bool:
        """Whether another pod's ending may be the cause of this one."""
        if self.reason == names.HUNG:
            return False
        return self.reason == "PodDeleted" or self.exit_code in _CONSEQUENCES

    @property
    def where(self) -> str:
        """`rank 3 (pod run-1-1 on gpu-7)`, as far as known."""
        pod = f"pod {self.pod}" + (f" on {self.node}" if self.node else "") if self.pod else ""
        if self.rank is None:
            return pod
        return f"rank {self.rank}" + (f" ({pod})" if pod else "")


def cause_of(observed: Observed, job: JobView, now: float) -> Failure:
    """Return why the attempt of ``job`` failed."""
    ended = [pod for pod in observed.pods_of(job.attempt) if _has_failed(pod)]
    if not ended:
        return Failure(
            attempt=job.attempt,
            reason="PodDeleted",
            message=f"a pod of {job.name} was deleted while it ran ({job.failed})",
            time=now,
        )
    return of_pod(min(ended, key=_order), now)


def telling(job: JobView, pods: tuple[PodView, ...], now: float) -> Failure | None:
    """Return the earliest ending, or the deletion, that is surely no consequence of another."""
    ended = [
        pod for pod in pods if pod.exit_code not in (None, 0, *_CONSEQUENCES) or _stood_still(pod)
    ]
    if ended:
        return of_pod(min(ended, key=_order), now)
    deleted = [pod for pod in pods if pod.deleting and not pod.node_lost]
    # The Job controller itself deletes the others once a pod has failed, and all when suspended.
    by_the_job = job.failing or job.suspended or any(_has_failed(pod) for pod in pods)
    if not deleted or by_the_job:
        return None
    first = deleted[0]
    return Failure(
        attempt=first.attempt,
        reason="PodDeleted",
        message=f"pod {first.name} was deleted while it ran",
        pod=first.name,
        node=first.node,
        time=now,
    )


def of_pod(pod: PodView, now: float) -> Failure:
    """Return the failure that one pod's ending tells of."""
    report = pod.report
    rank = report.get("rank")
    step = report.get("step")
    code = report.get("exitCode")
    return Failure(
        attempt=pod.attempt,
        reason=_reason(pod),
        message=str(report.get("message") or _fallback(pod)),
        rank=rank if isinstance(rank, int) else None,
        pod=pod.name,
        node=pod.node,
        exit_code=code if isinstance(code, int) and not pod.exit_code else pod.exit_code,
        step=step if isinstance(step, int) else None,
        time=now,
    )


def _has_failed(pod: PodView) -> bool:
    return pod.phase == "Failed" or pod.exit_code not in (None, 0)


def _order(pod: PodView) -> tuple[int, float, int]:
    """Causes before consequences, then by time; endings of one second by how telling they are."""
    finished = pod.finished_at or float("inf")
    if _stood_still(pod):
        return (0, finished, pod.index)
    if pod.exit_code == _COMMUNICATION:
        return (2, finished, pod.index)
    # Peers are terminated once one pod has failed, and end as if they had been preempted.
    consequence = pod.exit_code == _PREEMPTED or (pod.exit_code in _TERMINATED and not pod.killed)
    return (1 if consequence else 0, finished, pod.index)


def _stood_still(pod: PodView) -> bool:
    """Whether it says that a rank of its own kept the others waiting, who lost it in the end."""
    return pod.exit_code == _COMMUNICATION and _reason(pod) == names.HUNG


def _reason(pod: PodView) -> str:
    if pod.killed == "OOMKilled":
        return "OOMKilled"
    told = pod.report.get("reason")
    if isinstance(told, str) and told.isalnum():
        return told[:64]
    if pod.killed:
        return "Disrupted"
    return names.REASONS.get(pod.exit_code or 0, names.REASONS[_WORKER])


def _fallback(pod: PodView) -> str:
    if pod.killed == "OOMKilled":
        return "the node's kernel killed the container: it used more memory than its limit"
    if pod.killed:
        return f"the pod was disrupted: {pod.killed}"
    return f"the container ended with exit code {pod.exit_code} and left no message"
