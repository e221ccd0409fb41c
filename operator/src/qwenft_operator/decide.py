"""The life of a run: from what is and what was to the next step. Pure.

A run is a sequence of numbered attempts, of which at most one exists at a time:

1. an attempt starts only when no pod of an earlier one can still run;
2. its failure is written into the status before anything of it is deleted;
3. a phase of ``Succeeded`` or ``Failed`` is final once an attempt was made.

Each stage below returns a decision or None, and the first decision counts.
"""

from __future__ import annotations

from qwenft_operator import names
from qwenft_operator.attempt import judge_attempt
from qwenft_operator.decision import Decision, Deletion
from qwenft_operator.situation import Situation
from qwenft_operator.start import start_attempt
from qwenft_operator.status import Report, workers_block

__all__ = ["decide"]

_FOREIGN_POLL = 2.0
_CLEARING_POLL = 5.0
_TORN_POLL = 1.0
_TORN_GRACE = 10.0
"""Seconds after a Job's end in which pods that are missing may be still to be seen."""
_RESTART_BASE, _RESTART_MOST = 10.0, 300.0


def decide(situation: Situation) -> Decision:
    """Return the next step of the run."""
    stages = (
        _not_ours,
        _finished,
        _invalid,
        _namesake,
        _torn,
        judge_attempt,
        _suspended,
        _clearing,
        _resting,
        start_attempt,
    )
    decisions = (stage(situation) for stage in stages)
    return next(found for found in decisions if found is not None)


def _not_ours(situation: Situation) -> Decision | None:
    """Leave a run alone that is being deleted, or that another controller answers for.

    Owner references let garbage collection take everything; nothing may be made any more.
    """
    run = situation.run
    return Decision() if run.deleting or run.is_managed_elsewhere else None


def _finished(situation: Situation) -> Decision | None:
    """Clean up after the end, and delete the run itself when its time is over."""
    history, spec = situation.history, situation.run.spec
    if history.phase not in names.TERMINAL or situation.attempt == 0:
        return None
    policy = spec.run_policy.clean_pod_policy if spec is not None else "Running"
    doomed = [job for job in situation.observed.jobs if policy == "All" or not job.over]
    deletions = tuple(
        Deletion(kind="Job", name=job.name, uid=job.uid) for job in doomed if not job.deleting
    )
    stuck = situation.lost_pods()
    life = spec.run_policy.ttl_seconds_after_finished if spec is not None else None
    if life is None:
        return Decision(status=situation.refreshed(), delete=deletions + stuck)
    left = min(life, (history.completed_at or situation.now) + life - situation.now)
    if left > 0:
        return Decision(status=situation.refreshed(), delete=deletions + stuck, requeue_after=left)
    owner = situation.run.owner
    return Decision(delete=(Deletion(kind=names.KIND, name=owner.name, uid=owner.uid),))


def _invalid(situation: Situation) -> Decision | None:
    """Stop over a spec that cannot be read; an edit of it is read again."""
    error = situation.run.error
    if error is None:
        return None
    return situation.failed(reason="InvalidSpec", message=str(error))


def _namesake(situation: Situation) -> Decision | None:
    """Objects of a deleted run of this name are waited out, not touched."""
    foreign = situation.observed.foreign
    if not foreign:
        return None
    message = f"waiting for {foreign[0]} of an earlier run of this name to be collected"
    phase = situation.history.phase or names.PENDING
    report = Report(phase=phase, reason="NameInUse", message=message)
    return situation.decision(report, requeue_after=_FOREIGN_POLL)


def _torn(situation: Situation) -> Decision | None:
    """Look again where an ended Job's pods seem to run, or are not seen: they were read before it.

    A Job has ended only when its pods have (Kubernetes 1.31), and what they say at their end is the
    result or the cause. Jobs and pods are read side by side, and either answer may be an old one.
    """
    job = situation.observed.job_of(situation.attempt)
    if job is None or not job.over or situation.history.failure_of(job.attempt) is not None:
        return None
    pods = situation.observed.pods_of(job.attempt)
    age = situation.now - job.ended_at if job.ended_at is not None else _TORN_GRACE
    # A pod of a failed Job may have been deleted, and nobody waits for that one; hardly all were.
    missing = len(pods) < job.pods if job.complete else not pods
    unseen = missing and 0 <= age < _TORN_GRACE
    if unseen or not all(pod.over for pod in pods):
        return Decision(requeue_after=_TORN_POLL)
    return None


def _suspended(situation: Situation) -> Decision | None:
    """Stop the attempt, keep its checkpoints; a resumed run starts a new attempt."""
    if not situation.spec.run_policy.suspend:
        return None
    running, attempt = situation.running_pods(), situation.attempt
    message = f"{len(running)} pods are ending" if running else "set spec.runPolicy.suspend: false"
    report = Report(
        phase=names.SUSPENDED,
        reason="Suspending" if running else "Suspended",
        message=message,
        settled=not running,
        # The clock of activeDeadlineSeconds starts anew on resuming, as that of batch/v1 does.
        changes={
            "attempt": attempt or None,
            "suspendedAttempt": attempt or None,
            "workers": workers_block(running, len(running)),
            "startTime": None,
        },
    )
    # The number is what tells a suspended attempt from a lost one: it is written first.
    history = situation.history
    if history.phase != names.SUSPENDED or history.suspended_attempt != attempt:
        return situation.decision(report, requeue_after=0.0)
    deletions = situation.job_deletions() + situation.lost_pods()
    return situation.decision(
        report, delete=deletions, requeue_after=_CLEARING_POLL if running else None
    )


def _clearing(situation: Situation) -> Decision | None:
    """Make sure that nothing of an earlier attempt runs before the next one starts."""
    # The Job goes last: a kubelet that ends a pod with its own grace is not hurried any more.
    deletions = situation.lost_pods() + situation.abandoned_pods() + situation.job_deletions()
    running = situation.running_pods()
    if not running and not situation.unfinished_jobs():
        return None
    message = f"attempt {situation.attempt} is ending: {len(running)} pods left"
    phase = situation.history.phase
    if phase not in (names.SUSPENDED, names.PENDING):
        phase = names.RESTARTING
    report = Report(
        phase=phase, reason="EndingAttempt", message=situation.with_cause(message), settled=False
    )
    return situation.decision(report, delete=deletions, requeue_after=_CLEARING_POLL)


def _resting(situation: Situation) -> Decision | None:
    """Wait before a second and later counted restart, ever longer: 10 s, 20 s … 5 min.

    So too after a gang gave its nodes back: of two that held half each, one is then whole, and a
    cluster that offers what its scheduler refuses is not asked again and again.
    """
    failure = situation.history.failure_of(situation.attempt)
    turns = max(situation.history.retries - 1, situation.history.released)
    if failure is None or turns < 1:
        return None
    rest = min(_RESTART_MOST, _RESTART_BASE * 2.0 ** (turns - 1))
    left = failure.time + rest - situation.now
    if not 0 < left <= rest:  # a failure of the future: the clock was set back
        return None
    message = situation.with_cause(f"attempt {situation.attempt + 1} starts after {rest:.0f} s")
    report = Report(phase=names.RESTARTING, reason="BackingOff", message=message)
    return situation.decision(report, requeue_after=left)
