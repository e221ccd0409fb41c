"""Judging the newest attempt: running, done, or failed and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qwenft_operator import names, reshape, standstill
from qwenft_operator.clock import format_time
from qwenft_operator.decision import Decision, Deletion, Notice
from qwenft_operator.doing import doing
from qwenft_operator.failure import Failure, cause_of, telling
from qwenft_operator.history import KEPT_FAILURES
from qwenft_operator.observe import JobView, PodView
from qwenft_operator.policies import Circumstances, Verdict, judge
from qwenft_operator.situation import Situation, hurried
from qwenft_operator.status import Report, progress_blocks, result_block, workers_block

__all__ = ["judge_attempt"]

REPORT_INTERVAL = 3.0
"""Seconds between two status writes that tell of nothing but progress."""
FORGIVING_AGE = 3600.0
"""Seconds after which an attempt that trained proves that earlier failures are history."""
_TAKES_TIME = (0, 64, 69)
"""Exit codes after which the peers may still be saving, or the cause is still to be seen."""
_GIB = 2**30


def judge_attempt(situation: Situation) -> Decision | None:
    """Return what follows for the newest attempt; None when it is over and recorded."""
    attempt = situation.attempt
    if attempt == 0 or situation.history.failure_of(attempt) is not None:
        return None
    job = situation.observed.job_of(attempt)
    if job is not None and job.complete:
        return _succeeded(situation, job)
    if attempt == situation.history.suspended_attempt:
        return None  # ended by us, even if the run has been resumed since
    if situation.deadline_in() == 0.0:
        limit = situation.spec.run_policy.active_deadline_seconds
        message = f"ran for longer than activeDeadlineSeconds, {limit} s"
        return situation.failed(reason="DeadlineExceeded", message=message)
    failure = _failure(situation, job)
    if failure is not None:
        return _record(situation, failure)
    suspending = situation.spec.run_policy.suspend
    return None if suspending or job is None else _running(situation, job)


def _failure(situation: Situation, job: JobView | None) -> Failure | None:
    """Return why the attempt is over, None while it is not."""
    if job is None:
        name = names.job(situation.run.owner.name, situation.attempt)
        message = f"Job {name} was deleted while it ran"
        return Failure(
            attempt=situation.attempt, reason="JobDeleted", message=message, time=situation.now
        )
    if job.failed:
        return _cause(situation, job)
    return standstill.given_up(situation, job)


def _cause(situation: Situation, job: JobView) -> Failure:
    cause = cause_of(situation.observed, job, situation.now)
    suspect = situation.history.suspect
    if suspect is None or suspect.attempt != job.attempt or not cause.may_be_consequence:
        return cause
    return replace(suspect, time=situation.now)


def _record(situation: Situation, failure: Failure) -> Decision:
    """Write the failure down, and with it the verdict; the next look acts on it."""
    history = situation.history
    retries = 0 if _has_proven_itself(situation) else history.retries
    verdict = judge(
        Circumstances(
            failure=failure,
            trained=situation.has_trained,
            plan=situation.observed.plans.get(history.plan),
            checkpoint_step=_newest_checkpoint(situation),
            went_back=history.went_back,
            memory_request=situation.spec.resources.memory_per_node,
            memory_raised=history.memory_raised,
            script=situation.has_script,
        ),
        retries=retries,
        backoff_limit=situation.spec.run_policy.backoff_limit,
    )
    told = f"attempt {failure.attempt} ended by {failure.reason}"
    told += f" at {failure.where}" if failure.where else ""
    message = f"{told}: {failure.message}" + (f"; {verdict.advice}" if verdict.advice else "")
    changes = _failure_changes(situation, failure)
    if not verdict.restart:
        return situation.failed(reason=failure.reason, message=message, changes=changes)
    changes["restarts"] = history.restarts + 1
    changes["retries"] = retries + int(verdict.counted)
    changes |= _lessons(verdict)
    report = Report(phase=names.RESTARTING, reason=failure.reason, message=message, changes=changes)
    notice = Notice(reason=failure.reason, message=message, warning=True)
    return situation.decision(report, events=(notice,), requeue_after=0.0)


def _lessons(verdict: Verdict) -> dict[str, Any]:
    """Return what later attempts must remember of the verdict."""
    changes: dict[str, Any] = {}
    if verdict.memory_budget is not None:
        changes["memoryBudgetGiB"] = verdict.memory_budget
    if verdict.memory_request is not None:
        changes["memoryPerNodeGiB"] = verdict.memory_request / _GIB
    if verdict.before_step is not None:
        # What was saved at or after that step is void until it is saved anew.
        changes |= {"checkpointBeforeStep": verdict.before_step, "checkpoint": None}
    return changes


def _failure_changes(situation: Situation, failure: Failure) -> dict[str, Any]:
    kept = (*situation.history.failures, failure)[-KEPT_FAILURES:]
    pods = situation.observed.pods_of(failure.attempt)
    return {
        "attempt": failure.attempt,
        "failure": failure.to_status(),
        "failures": [item.to_status() for item in kept],
        "workers": workers_block(pods, situation.history.plan_nodes or len(pods)),
    }


def _newest_checkpoint(situation: Situation) -> int | None:
    """Return the step of the newest checkpoint, from a report that was not written down yet too."""
    progress = situation.observed.progress
    if progress is not None and progress.attempt == situation.attempt and progress.checkpoint_step:
        return progress.checkpoint_step
    return situation.history.checkpoint_step


def _has_proven_itself(situation: Situation) -> bool:
    job = situation.observed.job_of(situation.attempt)
    if job is None or job.created_at is None or not situation.has_trained:
        return False
    return situation.now - job.created_at >= FORGIVING_AGE


def _succeeded(situation: Situation, job: JobView) -> Decision:
    pods = situation.observed.pods_of(job.attempt)
    result = result_block(pods)
    changes: dict[str, Any] = {
        "attempt": job.attempt,
        "completionTime": format_time(situation.now),
        "workers": workers_block(pods, job.pods),
    }
    changes |= _last_progress(situation)
    if result is not None:
        changes["result"] = result
        known = changes.get("progress") or situation.run.status.get("progress") or {}
        changes["progress"] = _completed(known, job.attempt, result)
    report = Report(
        phase=names.SUCCEEDED,
        reason="Completed",
        message=_success_message(result),
        changes=changes,
    )
    return situation.decision(report, events=_hub_notices(result), requeue_after=0.0)


def _hub_notices(result: Mapping[str, Any] | None) -> tuple[Notice, ...]:
    """Say what became of the copy for the hub: a run does not fail over it."""
    told = result or {}
    if "hubError" in told:
        message = f"the model was not sent to the hub: {told['hubError']}; it lies in the output"
        return (Notice(reason="HubUploadFailed", message=message, warning=True),)
    if "hubUrl" in told:
        return (Notice(reason="HubUploaded", message=f"the model is on {told['hubUrl']}"),)
    return ()


def _completed(known: Mapping[str, Any], attempt: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the progress as the result tells it: the last report may be seconds old."""
    final = {"attempt": attempt, "estimatedRemainingSeconds": 0.0}
    names_of = {"step": "steps", "totalSteps": "steps", "loss": "finalLoss",
                "validationLoss": "validationLossAfter"}  # fmt: skip
    final |= {ours: result[theirs] for ours, theirs in names_of.items() if theirs in result}
    return dict(known) | final


def _success_message(result: dict[str, Any] | None) -> str:
    if result is None:
        return "all pods completed"
    before, after = result.get("validationLossBefore"), result.get("validationLossAfter")
    message = f"trained {result.get('steps', '?')} steps"
    if isinstance(before, float) and isinstance(after, float):
        message += f", validation loss {before:.3f} → {after:.3f}"
    if result.get("outputPath"):
        message += f"; the model lies in {result['outputPath']}"
    if result.get("hubError"):
        message += f", but not on the hub: {result['hubError']}"
    return message


def _last_progress(situation: Situation) -> dict[str, Any]:
    progress = situation.observed.progress
    if progress is None or progress.attempt != situation.attempt:
        return {}
    return progress_blocks(progress, situation.now)


def _running(situation: Situation, job: JobView) -> Decision:
    pods = situation.observed.pods_of(job.attempt)
    replan: dict[str, Any] = {}
    if reshape.is_due(situation, job, pods):
        if situation.capacity is None:
            return Decision(wants_capacity=True, goes_on=True)
        look = reshape.look(situation, job)
        if look.ends is not None:
            return look.ends
        replan = {"replan": look.block}
    changes: dict[str, Any] = replan | {
        "attempt": job.attempt,
        "workers": workers_block(pods, job.pods),
        # The clock of activeDeadlineSeconds does not run in a queue.
        "startTime": None
        if job.suspended
        else situation.run.status.get("startTime") or format_time(situation.now),
    }
    suspect = telling(job, pods, situation.now)
    if suspect is not None and situation.history.suspect is None:
        changes["failure"] = suspect.to_status()
    fresh, wait = _fresh_progress(situation, job)
    changes |= fresh
    phase, reason, message = doing(situation, job, pods)
    report = Report(phase=phase, reason=reason, message=message, changes=changes)
    deletions = _hurried(job, pods) + situation.outdated_jobs()
    waits = (wait, standstill.next_look(situation, job), reshape.next_look(situation, job, pods))
    return situation.decision(
        report,
        delete=deletions,
        requeue_after=min((each for each in waits if each is not None), default=None),
    )


def _fresh_progress(situation: Situation, job: JobView) -> tuple[dict[str, Any], float | None]:
    """Return the blocks of a new report, or the seconds until it may be written."""
    progress, history = situation.observed.progress, situation.history
    if progress is None or progress.attempt != situation.attempt:
        return {}, None
    known = situation.run.status.get("progress") or {}
    fresh = progress_blocks(progress, situation.now)
    if {**fresh["progress"], "lastUpdatedTime": known.get("lastUpdatedTime")} == known:
        return {}, None
    first = history.trained_attempt != situation.attempt
    since = situation.now - (history.reported_at or 0.0)
    if not first and 0 <= since < REPORT_INTERVAL:  # less than nothing: the clock was set back
        return {}, REPORT_INTERVAL - since
    began = job.started_at or job.created_at
    if first and began is not None:
        fresh["startSeconds"] = situation.now - began
    return fresh, None


def _hurried(job: JobView, pods: tuple[PodView, ...]) -> tuple[Deletion, ...]:
    """Cut short the grace period of a failed pod's peers, which wait for it in vain."""
    if not any(pod.exit_code is not None and pod.exit_code not in _TAKES_TIME for pod in pods):
        return ()
    if not job.failing:
        # Until the Job controller has seen the failed pod, it would take the first deleted peer for
        # the failure, and delete the failed pod with all its evidence as one that still runs.
        return ()
    return hurried(pods)
