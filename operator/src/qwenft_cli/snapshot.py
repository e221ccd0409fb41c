"""What the live view shows of a run at one moment, on a cluster or on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qwenft_plan.progress import Progress

__all__ = ["FINISHED", "Failure", "Snapshot", "Worker", "latest_event", "of_run", "with_report"]

FINISHED = ("Succeeded", "Failed")
"""Phases that a run does not leave again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One pod: its name, its node and what the kubelet says of it."""

    name: str
    node: str
    state: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an attempt ended."""

    attempt: int
    reason: str
    message: str
    exit_code: int | None = None
    rank: int | None = None
    node: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One run at one moment. Numbers in the units of the status; None where not known (yet)."""

    name: str
    phase: str
    attempt: int = 1
    restarts: int = 0
    plan: str = ""
    reason: str = ""
    """Why the plan won, or, without a plan, why there is none."""
    predicted: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    progress: Progress | None = None
    workers_ready: str = ""
    workers: tuple[Worker, ...] = ()
    failure: Failure | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    event: str = ""
    started: str = ""
    completed: str = ""

    @property
    def finished(self) -> bool:
        """Whether the run has ended for good."""
        return self.phase in FINISHED


def of_run(
    body: Mapping[str, Any],
    *,
    pods: Sequence[Mapping[str, Any]] = (),
    events: Sequence[Mapping[str, Any]] = (),
) -> Snapshot:
    """Read a QwenFineTune as the API serves it, with its pods and its events, oldest first."""
    status: Mapping[str, Any] = body.get("status") or {}
    plan: Mapping[str, Any] = status.get("plan") or {}
    workers: Mapping[str, Any] = status.get("workers") or {}
    return Snapshot(
        name=str(body["metadata"]["name"]),
        phase=str(status.get("phase") or "Pending"),
        attempt=int(status.get("attempt") or 1),
        restarts=int(status.get("restarts") or 0),
        plan=str(plan.get("summary") or ""),
        reason=str(plan.get("reason") or status.get("message") or ""),
        predicted=plan.get("predicted") or {},
        measured=status.get("measured") or {},
        progress=_progress(status),
        workers_ready=str(workers.get("ready") or ""),
        workers=tuple(_worker(pod) for pod in pods),
        failure=_failure(status.get("failure")),
        result=status.get("result") or {},
        event=latest_event(events),
        started=str(status.get("startTime") or ""),
        completed=str(status.get("completionTime") or ""),
    )


def with_report(snapshot: Snapshot, report: Progress) -> Snapshot:
    """Return the snapshot of a local run after one line of its trainer."""
    measured = {
        "memoryGiB": report.memory_gib,
        "tokensPerSecond": report.tokens_per_second,
        "mfu": report.mfu,
    }
    known = {name: value for name, value in measured.items() if value is not None}
    before = snapshot.progress
    if report.validation_loss is None and before is not None:
        report = replace(report, validation_loss=before.validation_loss)
    return replace(
        snapshot, phase="Training", progress=report, measured={**snapshot.measured, **known}
    )


def latest_event(events: Sequence[Mapping[str, Any]]) -> str:
    """Return ``Reason: message`` of the newest event, empty without any."""
    if not events:
        return ""
    event = events[-1]
    return f"{event.get('reason', '')}: {event.get('message', '')}"


def _progress(status: Mapping[str, Any]) -> Progress | None:
    progress = status.get("progress")
    if not progress:
        return None
    measured: Mapping[str, Any] = status.get("measured") or {}
    checkpoint: Mapping[str, Any] = status.get("checkpoint") or {}
    return Progress.from_mapping(
        {
            "attempt": int(status.get("attempt") or 1),
            "step": 0,
            "totalSteps": 0,
            "tokensPerSecond": measured.get("tokensPerSecond"),
            "checkpointStep": checkpoint.get("step"),
            **progress,
        }
    )


def _failure(failure: Mapping[str, Any] | None) -> Failure | None:
    if not failure:
        return None
    return Failure(
        attempt=int(failure.get("attempt") or 1),
        reason=str(failure.get("reason") or "Unknown"),
        message=str(failure.get("message") or ""),
        exit_code=failure.get("exitCode"),
        rank=failure.get("rank"),
        node=str(failure.get("node") or ""),
    )


def _worker(pod: Mapping[str, Any]) -> Worker:
    status: Mapping[str, Any] = pod.get("status") or {}
    return Worker(
        name=str(pod["metadata"]["name"]),
        node=str((pod.get("spec") or {}).get("nodeName") or "(no node yet)"),
        state=_state(status),
    )


def _state(status: Mapping[str, Any]) -> str:
    """Return what keeps the container waiting or ended it, else the pod's phase."""
    for container in status.get("containerStatuses") or ():
        state: Mapping[str, Any] = container.get("state") or {}
        for kind in ("waiting", "terminated"):
            if state.get(kind):
                return str(state[kind].get("reason") or kind.capitalize())
    return str(status.get("phase") or "Unknown")
