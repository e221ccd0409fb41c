"""Starting an attempt: plan for what is free, and make its objects. Pure."""

from __future__ import annotations

from qwenft_operator import names
from qwenft_operator.clock import format_time
from qwenft_operator.decision import Decision, Notice
from qwenft_operator.render import render
from qwenft_operator.situation import Situation
from qwenft_operator.status import Report, plan_block, workers_block
from qwenft_plan.errors import Infeasible, SpecError
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan

__all__ = ["start_attempt"]

CAPACITY_GRACE = 10.0
"""Seconds that lost capacity has to come back before a run goes on with less."""
MISSING_GRACE = 60.0
"""Seconds that objects named by the spec have to appear."""
_PENDING_POLL = 30.0
_MISSING_POLL = 3.0


def start_attempt(situation: Situation) -> Decision:
    """Return the next attempt's objects, or why there can be none yet."""
    if situation.capacity is None:
        return Decision(wants_capacity=True)
    if situation.missing:
        return _lacking(situation)
    try:
        planned = plan(
            spec=situation.spec,
            model=ModelShape.for_spec(situation.spec.model),
            inventory=situation.capacity.inventory,
        )
    except SpecError as error:
        return situation.failed(reason="InvalidSpec", message=str(error), planned="False")
    except Infeasible as error:
        return _infeasible(situation, error)
    if _is_hasty(situation, planned.plan.nodes):
        return _wait_for_capacity(situation, planned.plan.nodes)
    return _begin(situation, planned)


def _begin(situation: Situation, planned: Planned) -> Decision:
    attempt = situation.attempt + 1
    assert situation.capacity is not None  # noqa: S101 - checked by the caller
    objects = render(
        situation.spec,
        planned.plan,
        situation.run.owner,
        attempt,
        settings=situation.settings,
        placement=situation.capacity.placement(situation.spec, planned),
    )
    if planned.plan.digest in situation.observed.plans:
        # Immutable, and perhaps written by another version of this operator.
        objects = tuple(item for item in objects if item["kind"] != "ConfigMap")
    message = f"attempt {attempt}: {planned.summary}. {planned.reason}"
    changes = {
        "attempt": attempt,
        "plan": plan_block(planned),
        "workers": workers_block((), planned.plan.nodes),
        "startTime": situation.run.status.get("startTime") or format_time(situation.now),
        "completionTime": None,
    }
    report = Report(
        phase=names.STARTING, reason="Starting", message=message, planned="True", changes=changes
    )
    notice = Notice(reason="Starting", message=message)
    return situation.decision(report, apply=objects, events=(notice,))


def _infeasible(situation: Situation, error: Infeasible) -> Decision:
    if _is_hasty(situation, 0):
        return _wait_for_capacity(situation, 0)
    reasons = list(error.reasons)
    if situation.capacity is not None and situation.capacity.unknown:
        reasons.append(f"unknown accelerators: {', '.join(situation.capacity.unknown)}")
    report = Report(
        phase=names.PENDING,
        reason="Infeasible",
        message=situation.with_cause("; ".join(reasons)),
        planned="False",
    )
    return situation.decision(report, requeue_after=_PENDING_POLL)


def _is_hasty(situation: Situation, nodes: int) -> bool:
    """Whether a plan for fewer nodes than before would come too soon after the failure."""
    failure = situation.history.failure_of(situation.attempt)
    if failure is None or nodes >= situation.history.plan_nodes:
        return False
    return situation.now < failure.time + CAPACITY_GRACE


def _wait_for_capacity(situation: Situation, nodes: int) -> Decision:
    failure = situation.history.failure_of(situation.attempt)
    assert failure is not None  # noqa: S101 - only a failure makes it hasty
    left = failure.time + CAPACITY_GRACE - situation.now
    message = (
        f"{nodes} of {situation.history.plan_nodes} nodes are there; "
        f"waiting up to {CAPACITY_GRACE:.0f} s for the others"
    )
    report = Report(
        phase=names.RESTARTING, reason="WaitingForCapacity", message=situation.with_cause(message)
    )
    return situation.decision(report, requeue_after=min(left, 2.0))


def _lacking(situation: Situation) -> Decision:
    """Objects are often applied in one go with the run: give them a moment, then stop."""
    message = "; ".join(situation.missing)
    failure = situation.history.failure_of(situation.attempt)
    since = max(situation.run.created_at, failure.time if failure else 0.0)
    if situation.now >= since + MISSING_GRACE:
        return situation.failed(reason="ObjectMissing", message=message, planned="False")
    report = Report(phase=names.PENDING, reason="ObjectMissing", message=message, planned="False")
    return situation.decision(report, requeue_after=_MISSING_POLL)
