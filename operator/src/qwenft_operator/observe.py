"""What is: the API's Job, Pod and ConfigMap objects → :class:`Observed`. Pure.

Only children of the run's own uid count. Those of an earlier run of the same name are listed as
``foreign``: they are not touched, garbage collection takes them, and the run waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qwenft_operator import names
from qwenft_operator.clock import parse_time
from qwenft_operator.run import Owner
from qwenft_plan.errors import SpecError
from qwenft_plan.plan import Plan
from qwenft_plan.progress import Progress

__all__ = ["Children", "JobView", "Observed", "PodView", "observe"]

Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Children:
    """API objects that carry the run's name, as listed."""

    jobs: tuple[Body, ...] = ()
    pods: tuple[Body, ...] = ()
    config_maps: tuple[Body, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PodView:
    """One pod of the run."""

    name: str
    uid: str
    attempt: int
    index: int
    """Node rank."""
    phase: str
    node: str = ""
    node_lost: bool = False
    """Whether its node is not ready, or gone: the pod's word can then not be had."""
    ready: bool = False
    deleting: bool = False
    grace: int | None = None
    """Seconds that its processes have to end, once it is being deleted."""
    exit_code: int | None = None
    finished_at: float | None = None
    """Seconds since the epoch, by the node's clock."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """The termination message, parsed; ``{"message": …}`` where it was no JSON."""
    killed: str = ""
    """The runtime's reason (``OOMKilled``) or the disruption's (``EvictionByEvictionAPI``)."""
    waiting: str = ""
    """Why the container does not start, ``ImagePullBackOff: …``."""
    unscheduled: str = ""
    """The scheduler's sentence while no node takes the pod."""
    created_at: float | None = None

    @property
    def over(self) -> bool:
        """Whether its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobView:
    """One attempt's Job."""

    name: str
    uid: str
    attempt: int
    plan: str
    """Digest of the plan that it runs."""
    pods: int
    suspended: bool = False
    complete: bool = False
    failed: str = ""
    """The Job controller's reason once it has failed and all its pods are gone or terminal."""
    failing: bool = False
    """Whether the Job controller has decided that it fails, pods still ending."""
    deleting: bool = False
    note: Mapping[str, Any] = field(default_factory=dict)
    """What its start left on it: ``plan``, ``message``; empty where that is not this plan's."""
    created_at: float | None = None
    started_at: float | None = None
    """When it was last set going: a queue may stop and start it again."""
    ended_at: float | None = None
    """When it completed or failed."""

    @property
    def over(self) -> bool:
        """Whether the Job has ended either way."""
        return self.complete or bool(self.failed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Everything that a decision reads of the cluster."""

    jobs: tuple[JobView, ...] = ()
    pods: tuple[PodView, ...] = ()
    plans: Mapping[str, Plan] = field(default_factory=dict)
    """Digest → frozen plan."""
    foreign: tuple[str, ...] = ()
    """``Kind/name`` of objects that carry the name but belong to another run."""
    trouble: str = ""
    """Why the Job controller cannot make the pods, where it says so."""
    progress: Progress | None = None
    """The newest report that this process received."""

    def job_of(self, attempt: int) -> JobView | None:
        """Return the Job of an attempt."""
        return next((job for job in self.jobs if job.attempt == attempt), None)

    def pods_of(self, attempt: int) -> tuple[PodView, ...]:
        """Return the pods of an attempt, by rank."""
        return tuple(pod for pod in self.pods if pod.attempt == attempt)

    @property
    def latest(self) -> int:
        """The highest attempt of which anything exists, 0 if none."""
        attempts = [job.attempt for job in self.jobs] + [pod.attempt for pod in self.pods]
        return max(attempts, default=0)


def observe(
    owner: Owner,
    children: Children,
    *,
    lost_nodes: Iterable[str] = (),
    trouble: str = "",
    progress: Progress | None = None,
) -> Observed:
    """Read the children; ``lost_nodes`` are those that are not ready or no longer exist."""
    lost = frozenset(lost_nodes)
    jobs = [_job(body) for body in children.jobs if _is_ours(owner, body)]
    pods = [_pod(body, lost) for body in children.pods if _is_ours(owner, body)]
    return Observed(
        jobs=tuple(sorted(jobs, key=lambda job: job.attempt)),
        pods=tuple(sorted(pods, key=lambda pod: (pod.attempt, pod.index, pod.name))),
        plans=_plans(body for body in children.config_maps if _is_ours(owner, body)),
        foreign=tuple(_foreign(owner, children)),
        trouble=trouble,
        progress=progress,
    )


def _is_ours(owner: Owner, body: Body) -> bool:
    return _labels(body).get(names.LABEL_UID) == owner.uid


def _foreign(owner: Owner, children: Children) -> Iterable[str]:
    groups = (
        ("Job", children.jobs),
        ("Pod", children.pods),
        ("ConfigMap", children.config_maps),
    )
    for kind, bodies in groups:
        for body in bodies:
            if not _is_ours(owner, body):
                yield f"{kind}/{body['metadata']['name']}"


def _labels(body: Body) -> Mapping[str, str]:
    return body["metadata"].get("labels") or {}


def _attempt(body: Body) -> int:
    text = _labels(body).get(names.LABEL_ATTEMPT, "")
    return int(text) if text.isdecimal() else 0


def _plans(bodies: Iterable[Body]) -> dict[str, Plan]:
    plans = {}
    for body in bodies:
        try:
            plan = Plan.from_json((body.get("data") or {}).get("plan.json", ""))
        except SpecError:
            continue  # not written by this version: the attempt goes on, the next one plans anew
        plans[plan.digest] = plan
    return plans


def _conditions(body: Body) -> dict[str, Body]:
    conditions = (body.get("status") or {}).get("conditions") or []
    return {item["type"]: item for item in conditions if item.get("status") == "True"}


def _job(body: Body) -> JobView:
    metadata, spec = body["metadata"], body.get("spec") or {}
    true = _conditions(body)
    failed = true.get("Failed")
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        attempt=_attempt(body),
        plan=_labels(body).get(names.LABEL_PLAN, ""),
        pods=spec.get("completions") or 0,
        suspended=bool(spec.get("suspend")),
        complete="Complete" in true,
        failed="" if failed is None else str(failed.get("reason") or "Failed"),
        failing="FailureTarget" in true,
        deleting="deletionTimestamp" in metadata,
        note=_note(body),
        created_at=parse_time(metadata.get("creationTimestamp")),
        started_at=parse_time((body.get("status") or {}).get("startTime")),
        ended_at=_ended_at(body, failed),
    )


def _ended_at(body: Body, failed: Body | None) -> float | None:
    """Return when a Job ended: only one that has completed has a ``completionTime``."""
    completed = (body.get("status") or {}).get("completionTime")
    return parse_time(completed or (failed or {}).get("lastTransitionTime"))


def _note(body: Body) -> Body:
    """Read a Job's note; anybody may have written there, so only this plan's is believed."""
    text = (body["metadata"].get("annotations") or {}).get(names.ANNOTATION_PLAN)
    note = _report(text or "")
    plan, wanted = note.get("plan"), _labels(body).get(names.LABEL_PLAN)
    ours = isinstance(plan, Mapping) and plan.get("digest") == wanted and "message" in note
    return note if ours else {}


def _pod(body: Body, lost: frozenset[str]) -> PodView:
    metadata, status = body["metadata"], body.get("status") or {}
    node = (body.get("spec") or {}).get("nodeName") or ""
    true = _conditions(body)
    ended = _ended(status)
    index = _labels(body).get(names.LABEL_INDEX, "0")
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        attempt=_attempt(body),
        index=int(index) if index.isdecimal() else 0,
        phase=status.get("phase") or "Pending",
        node=node,
        node_lost=node in lost,
        ready="Ready" in true,
        deleting="deletionTimestamp" in metadata,
        grace=metadata.get("deletionGracePeriodSeconds"),
        exit_code=ended.get("exitCode"),
        finished_at=parse_time(ended.get("finishedAt")),
        report=_report(ended.get("message") or status.get("message") or ""),
        killed=_killed(status, ended, true),
        waiting=_waiting(status),
        unscheduled="" if node else _unscheduled(status),
        created_at=parse_time(metadata.get("creationTimestamp")),
    )


def _container(status: Body) -> Body:
    statuses = status.get("containerStatuses") or []
    found = next((item for item in statuses if item.get("name") == names.CONTAINER), None)
    state: Body = (found or {}).get("state") or {}
    return state


def _ended(status: Body) -> Body:
    ended: Body = _container(status).get("terminated") or {}
    return ended


def _report(message: str) -> Mapping[str, Any]:
    if not message:
        return {}
    try:
        parsed = json.loads(message)
    except (json.JSONDecodeError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, dict) else {"message": message}


def _killed(status: Body, ended: Body, true: Mapping[str, Body]) -> str:
    if ended.get("reason") == "OOMKilled":
        return "OOMKilled"
    if "DisruptionTarget" in true:
        return str(true["DisruptionTarget"].get("reason") or "DisruptionTarget")
    return str(status.get("reason") or "")


def _waiting(status: Body) -> str:
    waiting = _container(status).get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason in ("", "ContainerCreating", "PodInitializing"):
        return ""
    return f"{reason}: {waiting.get('message', '')}".rstrip(": ")


def _unscheduled(status: Body) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "")
    return ""
