"""What all runs are planned on: nodes, pods, Jobs and runs of one moment → :class:`View`. Pure.

Runs that start together are planned one after the other on one view. Each start is entered into it,
so that the next run does not count the same devices: a Job that was made a moment ago looks in the
view as one does whose pods do not exist yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qwenft_operator import names
from qwenft_operator.claims import Claim, requests_of
from qwenft_operator.clock import parse_time
from qwenft_operator.decision import Decision
from qwenft_operator.fabrics import Networks
from qwenft_operator.nodes import Capacity, capacity_besides
from qwenft_operator.run import Run

__all__ = [
    "Place",
    "View",
    "attempt_key",
    "has_ended",
    "known_as",
]

Body = Mapping[str, Any]
Attempt = tuple[str, str]
"""A run's uid and the number of its attempt, as labels tell them."""
Place = tuple[int, float, str, str]
"""Priority, negated; creation, seconds since the epoch; name and namespace."""

_FAILURES, _ENDS = ("Failed", "FailureTarget"), ("Complete", "SuccessCriteriaMet")
_MOST = 20
"""Runs that wait and are looked at: each costs a plan."""
_ALIVE = (names.STARTING, names.TRAINING, names.RESTARTING, names.QUEUED)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The cluster as plans see it."""

    nodes: tuple[Body, ...] = ()
    claims: tuple[tuple[Attempt, Claim], ...] = ()
    """What each pod that has not ended takes; the attempt is empty for pods of others."""
    jobs: tuple[Body, ...] = ()
    """This operator's Jobs."""
    runs: tuple[Body, ...] = ()
    priorities: Mapping[str, int] = field(default_factory=dict)
    """PriorityClass → its value; the empty name is of runs that name none."""

    @classmethod
    def of(
        cls, *, nodes: Iterable[Body], pods: Iterable[Body], jobs: Iterable[Body],
        runs: Iterable[Body], classes: Iterable[Body] = (),
    ) -> View:  # fmt: skip
        """Take what was listed; ``pods`` are those that have not ended."""
        return cls(
            nodes=tuple(nodes),
            claims=tuple((attempt_key(pod), Claim.of(pod)) for pod in pods),
            jobs=tuple(jobs),
            runs=tuple(runs),
            priorities=dict(_values(classes)),
        )

    def capacity_for(self, run: Run, networks: Networks | None = None) -> Capacity:
        """Return what is free for a run; ``networks``: what the settings say of them.

        Only a run of which nothing runs any more is planned: what the view still shows of it is
        older than that.
        """
        assert run.spec is not None  # noqa: S101 - only a run with a spec is planned
        uid = run.owner.uid
        others = [body for body in self.runs if body["metadata"]["uid"] != uid]
        claims = [claim for (owner, _), claim in self.claims if owner != uid]
        jobs = tuple(job for job in self.jobs if attempt_key(job)[0] != uid)
        if run.owner.queue:
            # Kueue decides when, by its quotas: the plan is for the nodes that there are.
            claims, jobs = [], ()
        claims += [*self._promised(jobs), *_kept(others, jobs)]
        found = capacity_besides(run.spec.resources, self.nodes, claims, networks)
        ahead = self.ahead_of(run)
        return replace(found, ahead=len(ahead), first=known_as(ahead[0], run) if ahead else "")

    def place_of(self, body: Body) -> Place:
        """Return where a run stands in the order of all runs: the smaller the earlier."""
        metadata = body["metadata"]
        name = str(_policy(body).get("priorityClassName") or "")
        return (
            -self.priorities.get(name, 0),
            parse_time(metadata.get("creationTimestamp")) or 0.0,
            metadata["name"],
            metadata["namespace"],
        )

    def ahead_of(self, run: Run) -> list[Body]:
        """Return the runs that wait for nodes and come before ``run``, the first one first.

        A queue of Kueue's has an order of its own.
        """
        if run.owner.queue:
            return []
        own = self.place_of(run.body)
        waiting = [body for body in self._wanting("", names.PENDING) if self.place_of(body) < own]
        return sorted(waiting, key=self.place_of)

    def equals_of(self, run: Run) -> list[Body]:
        """Return the runs that wait for nodes and are of no lower priority, a few of many."""
        own = self.place_of(run.body)[0]
        waiting = [
            body for body in self._wanting("", names.PENDING) if self.place_of(body)[0] <= own
        ]
        return sorted(waiting, key=self.place_of)[:_MOST]

    def unkept(self) -> list[Body]:
        """Return the runs that go on although their attempt's Job is not there any more."""
        known = {attempt_key(job) for job in self.jobs}
        return [
            body
            for body in self._wanting(names.STARTING, names.TRAINING, names.RESTARTING)
            if (body["metadata"]["uid"], str(body["status"].get("attempt"))) not in known
        ]

    def _wanting(self, *phases: str) -> Iterator[Body]:
        """Yield the runs in these phases that want nodes of this operator's choice."""
        return (
            body
            for body in self.runs
            if (body.get("status") or {}).get("phase", "") in phases and _may_start(body)
        )

    def emptied(self) -> View:
        """Return the view as it would be if no run of this operator took anything."""
        claims = tuple(item for item in self.claims if not item[0][0])
        return replace(self, claims=claims, jobs=())

    def less(self, nodes: Iterable[str]) -> View:
        """Return the view without some nodes."""
        gone = frozenset(nodes)
        left = tuple(node for node in self.nodes if node["metadata"]["name"] not in gone)
        return replace(self, nodes=left)

    def after(self, run: Run, decision: Decision) -> View:
        """Return the view once the decision has been carried out."""
        made = {attempt_key(item): item for item in decision.apply if item["kind"] == "Job"}
        jobs = tuple(job for job in self.jobs if attempt_key(job) not in made)
        runs = self.runs
        if decision.status is not None:
            told = {"status": dict(decision.status)}
            uid = run.owner.uid
            runs = tuple(
                {**body, **told} if body["metadata"]["uid"] == uid else body for body in runs
            )
        return replace(self, jobs=(*jobs, *made.values()), runs=runs)

    def _promised(self, jobs: tuple[Body, ...]) -> Iterator[Claim]:
        """Yield the claims of pods that running Jobs of this operator have not created yet."""
        present = Counter(attempt for attempt, _ in self.claims)
        for job in jobs:
            missing = job["spec"].get("completions", 0) - present[attempt_key(job)]
            if missing > 0 and not has_ended(job) and not job["spec"].get("suspend"):
                yield from [_claim_of(job)] * missing


def _values(classes: Iterable[Body]) -> Iterator[tuple[str, int]]:
    for body in classes:
        value = int(body.get("value") or 0)
        yield body["metadata"]["name"], value
        if body.get("globalDefault"):
            yield "", value


def known_as(body: Body, run: Run) -> str:
    """Return how another run is called before the eyes of those who may see ``run`` only."""
    metadata = body["metadata"]
    own = metadata["namespace"] == run.owner.namespace
    return str(metadata["name"]) if own else "a run of another namespace"


def _policy(body: Body) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (body.get("spec") or {}).get("runPolicy") or {}
    return found


def _may_start(body: Body) -> bool:
    metadata, policy = body["metadata"], _policy(body)
    return (
        not policy.get("suspend")
        and policy.get("managedBy", "") in ("", names.MANAGER)
        and names.LABEL_QUEUE not in (metadata.get("labels") or {})
        and "deletionTimestamp" not in metadata
    )


def _kept(runs: Iterable[Body], jobs: tuple[Body, ...]) -> Iterator[Claim]:
    """Yield what restarting runs had: a run between two attempts must not lose its nodes.

    A Job that has just failed counts too, whether or not its run has been looked at since.
    """
    by_attempt = {attempt_key(job): job for job in jobs}
    for body in runs:
        status = body.get("status") or {}
        job = by_attempt.get((body["metadata"]["uid"], str(status.get("attempt"))))
        if status.get("phase") in _ALIVE and job is not None and has_ended(job, _FAILURES):
            yield from [_claim_of(job)] * job["spec"].get("completions", 0)


def _claim_of(job: Body) -> Claim:
    """Return the claim of one of the Job's pods, on no node yet."""
    return Claim(requests=requests_of(job["spec"]["template"]["spec"]))


def attempt_key(body: Body) -> Attempt:
    """Return the attempt that an object belongs to."""
    labels = body["metadata"].get("labels") or {}
    return labels.get(names.LABEL_UID, ""), labels.get(names.LABEL_ATTEMPT, "")


def has_ended(job: Body, ends: tuple[str, ...] = (*_FAILURES, *_ENDS)) -> bool:
    """Return whether the Job has, or will have, one of these ends."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(item["type"] in ends and item["status"] == "True" for item in conditions)
