"""Why an attempt that has not ended is given up: a lost node, no node, no container, no step. Pure.

All patience is measured by :attr:`Situation.still_for`, the time for which this process has itself
seen nothing change: a clock that was set, or an operator that was down, ends no healthy run.
"""

from __future__ import annotations

from qwenft_operator.failure import Failure
from qwenft_operator.observe import JobView, PodView
from qwenft_operator.policies import disruption, image, unschedulable
from qwenft_operator.situation import Situation
from qwenft_operator.vigil import PATROL

__all__ = ["STANDSTILL", "given_up", "next_look"]

STANDSTILL = 10.0
"""Seconds without a report after which a lost node is believed to have stopped the run.

Two reports are missing by then. A kubelet that died leaves its containers running, and reporting.
"""
_STEPS = 5
"""As many times a usual step may pass before a run counts as hung."""
_POLL, _SOON = 5.0, 0.5


def given_up(situation: Situation, job: JobView) -> Failure | None:
    """Return why the attempt is not waited for any longer, None while it is."""
    pods = situation.observed.pods_of(job.attempt)
    return (
        _lost(situation, job, pods)
        or _never_started(situation, job, pods)
        or _hung(situation, job, pods)
    )


def next_look(situation: Situation, job: JobView) -> float | None:
    """Return the seconds after which the attempt is looked at again if nothing is heard of it."""
    pods = situation.observed.pods_of(job.attempt)
    if any(pod.node_lost for pod in pods):
        return min(_POLL, max(_SOON, STANDSTILL - situation.still_for + _SOON))
    if len(pods) < job.pods or any(pod.waiting or pod.unscheduled for pod in pods):
        return _POLL
    limit = _limit(situation, pods)
    return None if limit is None else min(PATROL, max(_SOON, limit - situation.still_for + _SOON))


def _lost(situation: Situation, job: JobView, pods: tuple[PodView, ...]) -> Failure | None:
    """Tell whether a node was lost: its pod never ends and keeps the Job from failing."""
    lost = next((pod for pod in pods if pod.node_lost and not pod.over), None)
    stands = situation.still_for > STANDSTILL
    if lost is None or not (lost.deleting or job.failing or stands):
        return None
    message = f"node {lost.node} is not ready or gone, and the run stands still"
    return _failure(lost, disruption.NODE_LOST, message, situation.now)


def _never_started(situation: Situation, job: JobView, pods: tuple[PodView, ...]) -> Failure | None:
    settings, still = situation.settings, situation.still_for
    for pod in pods:
        hopeless = pod.waiting.startswith("InvalidImageName")
        if pod.waiting and (hopeless or still > settings.image_patience):
            return _failure(pod, image.REASON, pod.waiting, situation.now)
        if pod.unscheduled and still > settings.node_patience and not job.suspended:
            return _failure(pod, unschedulable.REASON, pod.unscheduled, situation.now)
    return None


def _hung(situation: Situation, job: JobView, pods: tuple[PodView, ...]) -> Failure | None:
    """Tell whether all pods run and nothing comes of it."""
    limit, still = _limit(situation, pods), situation.still_for
    if limit is None or still <= limit:
        return None
    culprit = _culprit(pods)
    told = f"no progress {_since(situation)}, for {still:.0f} s (limit {limit:.0f} s)"
    return Failure(
        attempt=job.attempt,
        reason=disruption.HUNG,
        message=f"{told}; {_whose(pods, culprit)}",
        rank=_only_rank(situation, job),
        pod="" if culprit is None else culprit.name,
        node="" if culprit is None else culprit.node,
        step=situation.history.step if situation.has_trained else None,
        time=situation.now,
    )


def _since(situation: Situation) -> str:
    """Tell the last that was heard, which is rank 0's word for all ranks."""
    if situation.has_trained:
        return f"since step {situation.history.step}"
    heard = situation.observed.progress
    if heard is not None and heard.attempt == situation.attempt:
        return "since its start (the model is in place, no step was trained)"
    return "since its start (nothing was heard of it)"


def _culprit(pods: tuple[PodView, ...]) -> PodView | None:
    """Return the pod that stands still, where that can be known although none has ended.

    The steps are those of all ranks at once: where one stands still, none of them gets on.
    """
    if len(pods) == 1:
        return pods[0]
    unready = [pod for pod in pods if not pod.ready]
    return unready[0] if len(unready) == 1 else None


def _whose(pods: tuple[PodView, ...], culprit: PodView | None) -> str:
    if culprit is None:
        return (
            f"which of its {len(pods)} pods stands still is not known: all of them run, and no "
            "rank or launcher told of itself (docs/howto/debug-a-failed-run.md)"
        )
    why = "is its only one" if len(pods) == 1 else f"is the only one of {len(pods)} not ready"
    return f"pod {culprit.name} on {culprit.node} {why}"


def _only_rank(situation: Situation, job: JobView) -> int | None:
    """Return 0 where there is no other rank that could be meant."""
    plan = situation.observed.plans.get(job.plan)
    return 0 if plan is not None and plan.world_size == 1 else None


def _limit(situation: Situation, pods: tuple[PodView, ...]) -> float | None:
    """Return for how many seconds nothing need be heard; None where nothing can be expected.

    Before its first step an attempt loads a model, after its last one it writes it: both may take
    as long as the volume is slow. Pods without the progress endpoint never report anything.
    """
    settings, history = situation.settings, situation.history
    if not settings.progress_url or not pods or any(pod.phase != "Running" for pod in pods):
        return None
    if not situation.has_trained or history.is_at_its_end:
        return max(settings.step_patience, settings.first_step_patience)
    return max(settings.step_patience, _STEPS * (history.seconds_per_step or 0.0))


def _failure(pod: PodView, reason: str, message: str, now: float) -> Failure:
    return Failure(
        attempt=pod.attempt, reason=reason, message=message, pod=pod.name, node=pod.node, time=now
    )
