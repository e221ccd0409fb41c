"""Everything that one decision reads, and the decisions that several stages share. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwenft_operator import names
from qwenft_operator.advice import NO_ADVICE, Advice
from qwenft_operator.clock import format_time
from qwenft_operator.decision import Decision, Deletion, Notice
from qwenft_operator.gangs import GangApi
from qwenft_operator.history import History
from qwenft_operator.nodes import Capacity
from qwenft_operator.observe import JobView, Observed, PodView
from qwenft_operator.policies import disruption
from qwenft_operator.run import Run, Settings
from qwenft_operator.status import Report, compose
from qwenft_operator.view import View
from qwenft_plan.spec import FinetuneSpec

__all__ = ["Situation", "hurried"]

_HURRIED_GRACE = 3
"""Seconds that pods have which wait for a failed peer in vain: nothing is left for them to save."""
_NOBODY_SAVES = (disruption.NODE_LOST, disruption.HUNG)


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """One run at one moment."""

    run: Run
    observed: Observed
    now: float
    settings: Settings = field(default_factory=Settings)
    capacity: Capacity | None = None
    """What the cluster has free; None until a decision asks for it."""
    view: View | None = None
    """What the capacity was counted in, with those that wait; None where no order is to be kept."""
    gave_way_for: float = 0.0
    """Seconds for which the run has let others go first that could have started."""
    looked_ago: float = 0.0
    """Seconds since the capacity was last looked at for the sake of an attempt that runs."""
    still_for: float = 0.0
    """Seconds for which this process has seen nothing of the newest attempt change."""
    advice: Advice = NO_ADVICE
    """Prices, networks and lessons; known together with the capacity."""
    gang: GangApi | None = None
    """The gang scheduler's API, as far as there is one to use."""
    obstacles: tuple[str, ...] = ()
    """What the namespace lacks or has too much of; known together with the capacity."""

    @property
    def largest_memory(self) -> float:
        """Bytes of the node with the most memory for pods, whatever runs on it now."""
        return 0.0 if self.capacity is None else self.capacity.largest_memory

    @property
    def history(self) -> History:
        """What the status remembers."""
        return History.from_status(self.run.status)

    @property
    def spec(self) -> FinetuneSpec:
        """The parsed spec; stages after the one for invalid specs may rely on it."""
        assert self.run.spec is not None  # noqa: S101 - an invariant of the order of stages
        return self.run.spec

    @property
    def has_script(self) -> bool:
        """Whether a script of the user's own runs in place of the built-in loop."""
        return self.spec.trainer.script is not None

    @property
    def attempt(self) -> int:
        """The newest attempt, 0 before the first: remembered, or seen if the write was lost."""
        return max(self.history.attempt, self.observed.latest)

    @property
    def has_trained(self) -> bool:
        """Whether the newest attempt has trained a step, by a report written down or not."""
        progress = self.observed.progress
        if progress is not None and progress.attempt == self.attempt and progress.step > 0:
            return True
        return self.history.trained_attempt == self.attempt

    def running_pods(self) -> tuple[PodView, ...]:
        """Return the pods, of any attempt, that may still run."""
        return tuple(pod for pod in self.observed.pods if not pod.over)

    def unfinished_jobs(self) -> tuple[JobView, ...]:
        """Return the Jobs that have not ended: they could still make pods."""
        return tuple(job for job in self.observed.jobs if not job.over)

    def job_deletions(self) -> tuple[Deletion, ...]:
        """Return the deletions that end every unfinished Job."""
        return tuple(
            Deletion(kind="Job", name=job.name, uid=job.uid)
            for job in self.unfinished_jobs()
            if not job.deleting
        )

    def outdated_jobs(self) -> tuple[Deletion, ...]:
        """Return the deletions of ended Jobs but the newest, which is kept for its logs."""
        ended = [job for job in self.observed.jobs if job.over and not job.deleting]
        return tuple(Deletion(kind="Job", name=job.name, uid=job.uid) for job in ended[:-1])

    def abandoned_pods(self) -> tuple[Deletion, ...]:
        """Return the hurried deletions of pods whose peer is lost, or which all stand still.

        A checkpoint takes every rank: such pods have nothing to save, however long they are given.
        """
        failure = self.history.failure_of(self.attempt)
        if failure is None or failure.reason not in _NOBODY_SAVES:
            return ()
        return hurried(tuple(pod for pod in self.running_pods() if not pod.node_lost))

    def lost_pods(self) -> tuple[Deletion, ...]:
        """Return the forced deletions of pods on lost nodes: nobody else will ever end them."""
        return tuple(
            Deletion(kind="Pod", name=pod.name, uid=pod.uid, grace=0)
            for pod in self.running_pods()
            if pod.node_lost
        )

    def with_cause(self, message: str) -> str:
        """Append why the newest attempt ended, where it is known."""
        failure = self.history.failure_of(self.attempt)
        if failure is None:
            return message
        return f"{message}; attempt {failure.attempt} ended by {failure.reason}: {failure.message}"

    def decision(
        self,
        report: Report,
        *,
        apply: tuple[dict[str, Any], ...] = (),
        delete: tuple[Deletion, ...] = (),
        events: tuple[Notice, ...] = (),
        requeue_after: float | None = None,
        hand_over: tuple[dict[str, Any], ...] = (),
    ) -> Decision:
        """Return the decision that reports ``report``, with an event when the phase changes."""
        deadline = self.deadline_in()
        waits = [wait for wait in (requeue_after, deadline) if wait is not None]
        if report.phase != self.history.phase and not events:
            warning = report.phase == names.FAILED
            events = (Notice(reason=report.phase, message=report.message, warning=warning),)
        return Decision(
            apply=apply,
            hand_over=hand_over,
            status=self._changed(compose(self.run, report, self.now)),
            events=events,
            delete=delete,
            requeue_after=min(waits) if waits else None,
        )

    def failed(
        self,
        *,
        reason: str,
        message: str,
        changes: Mapping[str, Any] | None = None,
        planned: str | None = None,
    ) -> Decision:
        """Return the decision that ends the run; what still runs is deleted on the next look."""
        completed = self.run.status.get("completionTime") or format_time(self.now)
        report = Report(
            phase=names.FAILED,
            reason=reason,
            message=message,
            planned=planned,
            changes={"completionTime": completed} | dict(changes or {}),
        )
        was_failed = self.history.phase == names.FAILED
        decision = self.decision(
            report,
            events=() if was_failed else (Notice(reason=reason, message=message, warning=True),),
        )
        status = decision.status
        return Decision(
            status=status,
            events=decision.events if status is not None else (),
            requeue_after=0.0 if status is not None and self.attempt else None,
        )

    def deadline_in(self) -> float | None:
        """Return the seconds until ``activeDeadlineSeconds``, None without one."""
        spec, started = self.run.spec, self.history.started_at
        if spec is None or started is None or self.history.phase in names.TERMINAL:
            return None
        limit = spec.run_policy.active_deadline_seconds
        return None if limit is None else max(0.0, started + limit - self.now)

    def refreshed(self) -> dict[str, Any] | None:
        """Return the old status with its generations brought up to date, None if they are."""
        if self.run.status.get("observedGeneration") == self.run.generation:
            return None
        generation = {"observedGeneration": self.run.generation}
        conditions = [dict(item) | generation for item in self.run.status.get("conditions") or ()]
        return dict(self.run.status) | generation | {"conditions": conditions}

    def _changed(self, status: dict[str, Any]) -> dict[str, Any] | None:
        written = self.run.body.get("status") or {}
        return None if status == written else status


def hurried(pods: tuple[PodView, ...]) -> tuple[Deletion, ...]:
    """Return the deletions that cut the grace period of those pods short that still run."""
    return tuple(
        Deletion(kind="Pod", name=pod.name, uid=pod.uid, grace=_HURRIED_GRACE)
        for pod in pods
        # A container that has ended is evidence, even before its pod's phase tells so.
        if not pod.over
        and pod.exit_code is None
        and (pod.grace is None or pod.grace > _HURRIED_GRACE)
    )
