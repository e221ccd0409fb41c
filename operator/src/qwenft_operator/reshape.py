"""Ending an attempt that runs well, because another plan is better or has to be. Pure.

Two things lead here: nodes are free that the run could use, or its ``nodes.max`` was lowered. The
attempt is ended as suspending ends one: its number is written first, its pods save and end, and the
next attempt is planned for what there is then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenft_operator import names, order
from qwenft_operator.decision import Decision, Notice
from qwenft_operator.nodes import Capacity
from qwenft_operator.observe import JobView, PodView
from qwenft_operator.policies import BEGINS_ANEW
from qwenft_operator.policies.growth import MARGIN, Prospect, age_needed
from qwenft_operator.situation import Situation
from qwenft_operator.start import choose, try_to_start
from qwenft_operator.status import Report
from qwenft_plan.errors import Infeasible, SpecError
from qwenft_plan.planner import Planned

__all__ = ["GROWING", "SHRINKING", "Look", "is_due", "look", "next_look"]

GROWING, SHRINKING = "Growing", "Shrinking"


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a look at the capacity says to a run that runs."""

    ends: Decision | None = None
    """The decision that ends the attempt; None: it goes on."""
    block: Mapping[str, Any] | None = None
    """``status.replan``; None where there is no other plan to speak of."""


def is_due(situation: Situation, job: JobView, pods: tuple[PodView, ...]) -> bool:
    """Whether the capacity should be looked at now: the spec has changed, or it was long ago."""
    edited = situation.run.status.get("observedGeneration") != situation.run.generation
    if not edited and situation.looked_ago < (situation.settings.growth_seconds or 60.0):
        return False
    if _is_lowered(situation):
        return True
    return _may_grow(situation, job, pods) and _age(situation, job) >= _age_needed(situation)


def next_look(situation: Situation, job: JobView, pods: tuple[PodView, ...]) -> float | None:
    """Return the seconds after which the capacity is to be looked at, None if never."""
    if not (_is_lowered(situation) or _may_grow(situation, job, pods)):
        return None
    pause = situation.settings.growth_seconds or 60.0
    left = 0.0 if _is_lowered(situation) else _age_needed(situation) - _age(situation, job)
    return max(1.0, pause - situation.looked_ago, left)


def look(situation: Situation, job: JobView) -> Look:
    """Compare the plan that runs with what could be planned now."""
    capacity = situation.capacity
    assert capacity is not None  # noqa: S101 - asked for by the caller
    if _is_lowered(situation):
        return _shrink(situation, job, capacity)
    return _grow(situation, job, capacity)


def _wanted(situation: Situation) -> int:
    """Return below how many nodes a run asks for more: ``nodes.max``, else what it began with."""
    return situation.spec.resources.nodes.max or situation.history.started_nodes


def _is_lowered(situation: Situation) -> bool:
    most = situation.spec.resources.nodes.max
    return most is not None and situation.history.plan_nodes > most


def _may_grow(situation: Situation, job: JobView, pods: tuple[PodView, ...]) -> bool:
    """Whether the run trains undisturbed, on fewer nodes than it may have.

    A script starts from its beginning, so no restart pays; what a queue admits is the queue's.
    """
    history = situation.history
    return (
        situation.settings.growth_seconds > 0
        and history.plan_nodes < _wanted(situation)
        and history.trained_attempt == job.attempt
        and not (situation.has_script or situation.run.owner.queue or job.failing)
        and len(pods) == job.pods
        and all(pod.phase == "Running" and not (pod.deleting or pod.node_lost) for pod in pods)
    )


def _age(situation: Situation, job: JobView) -> float:
    return situation.now - (job.started_at or job.created_at or situation.now)


def _age_needed(situation: Situation) -> float:
    return age_needed(situation.history.growths, situation.settings.growth_age_seconds)


def _grow(situation: Situation, job: JobView, capacity: Capacity) -> Look:
    planned = _better(situation, capacity)
    remaining = (situation.run.status.get("progress") or {}).get("estimatedRemainingSeconds")
    if planned is None or remaining is None:
        return Look()
    prospect = Prospect(
        remaining=remaining,
        speedup=_speedup(situation.run.status["plan"], planned),
        start=situation.run.status.get("startSeconds"),
        save=(situation.run.status.get("checkpoint") or {}).get("seconds"),
    )
    told = (
        f"{planned.summary} would save {prospect.gain:.0f} of the {remaining:.0f} s that are left; "
        f"a restart costs {prospect.cost:.0f} s"
    )
    figures = {"savesSeconds": round(prospect.gain, 1), "costsSeconds": round(prospect.cost, 1)}
    block = _block(planned, GROWING, told) | figures
    if not prospect.pays:
        told += f", and is to save {MARGIN:.0f} times as much"
        return Look(block=block | {"reason": "DoesNotPay", "message": told})
    if order.others_wait(situation, try_to_start):
        told += "; others wait for nodes"
        return Look(block=block | {"reason": "OthersWait", "message": told})
    told += ": saves, and goes on by it"
    changes = {"growths": situation.history.growths + 1, "replan": block | {"message": told}}
    return Look(ends=_end(situation, job, GROWING, told, changes))


def _better(situation: Situation, capacity: Capacity) -> Planned | None:
    """Return the plan for what is free and what the run has, if that is for more devices."""
    history = situation.history
    left = capacity.without(history.failed_nodes())
    usable = sum(offer.shape.devices > 0 for offer in left.offers)
    if usable <= history.plan_nodes:
        return None
    planned = _plan(situation, left)
    more = situation.run.status["plan"].get("worldSize", 0)
    if planned is None or planned.plan.nodes <= history.plan_nodes:
        return None
    return planned if planned.plan.world_size > more else None


def _plan(situation: Situation, capacity: Capacity) -> Planned | None:
    try:
        return choose(situation, capacity)[0]
    except (SpecError, Infeasible):
        return None


def _speedup(running: Mapping[str, Any], planned: Planned) -> float:
    """Return predicted speed over predicted speed, both as the planner alone predicts them.

    What was learnt between the two plans would else pass for a gain.
    """
    before = running["predicted"]["tokensPerSecond"]
    before /= (running.get("correction") or {}).get("speed") or 1.0
    after = planned.predicted.tokens_per_second / planned.chosen.lesson.speed
    return float(after / before) if before else 0.0


def _shrink(situation: Situation, job: JobView, capacity: Capacity) -> Look:
    """Go down to ``nodes.max``, unless there is no such plan even on what the run has now."""
    most, has = situation.spec.resources.nodes.max, situation.history.plan_nodes
    try:
        planned, _ = choose(situation, capacity)
    except (SpecError, Infeasible) as error:
        told = f"nodes.max is {most}, but no plan is left: {error}; goes on with {has} nodes"
        return Look(block={"nodes": most, "reason": "NoPlan", "message": told[:1024]})
    told = f"nodes.max is {most}: saves, gives {has - planned.plan.nodes} of its nodes back and "
    told += f"goes on as {planned.summary}"
    if situation.has_script:
        told += f"; {BEGINS_ANEW}"
    changes = {"replan": _block(planned, SHRINKING, told)}
    return Look(ends=_end(situation, job, SHRINKING, told, changes))


def _block(planned: Planned, reason: str, told: str) -> dict[str, Any]:
    return {
        "nodes": planned.plan.nodes,
        "summary": planned.summary[:256],
        "reason": reason,
        "message": told[:1024],
    }


def _end(
    situation: Situation, job: JobView, reason: str, message: str, changes: Mapping[str, Any]
) -> Decision:
    """Write down that the attempt is ended on purpose; the next look deletes its Job."""
    ended = {"attempt": job.attempt, "suspendedAttempt": job.attempt}
    report = Report(
        phase=names.RESTARTING, reason=reason, message=message, changes=ended | dict(changes)
    )
    notice = Notice(reason=reason, message=message)
    return situation.decision(report, events=(notice,), requeue_after=0.0)
