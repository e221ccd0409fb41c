"""Starting an attempt: plan for what is free, and make its objects. Pure."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from qwenft_operator import gangs, names, order
from qwenft_operator.clock import format_time
from qwenft_operator.decision import Decision, Notice
from qwenft_operator.failure import Failure
from qwenft_operator.history import History
from qwenft_operator.nodes import Capacity
from qwenft_operator.policies import BEGINS_ANEW, disruption, host_memory
from qwenft_operator.recollect import remembering
from qwenft_operator.render import render
from qwenft_operator.situation import Situation
from qwenft_operator.status import Report, plan_block, workers_block
from qwenft_plan import explain
from qwenft_plan.errors import Infeasible, SpecError
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan

__all__ = ["choose", "start_attempt", "try_to_start"]

CAPACITY_GRACE, LOST_GRACE = 10.0, 3.0
"""Seconds that capacity has to come back before a run goes on with less.

The second is for a node that counts as lost: the control plane has waited for it already.
"""
OBSTACLE_GRACE = 60.0
"""Seconds that objects named by the spec have to appear, and namesakes to go."""
_GIB = 2**30
_LEANER = 0.99
_PENDING_POLL = 30.0
_TURN_POLL = 10.0
_OBSTACLE_POLL = 3.0


def start_attempt(situation: Situation) -> Decision:
    """Return the next attempt's objects, or why there can be none yet."""
    if situation.capacity is None:
        return Decision(wants_capacity=True)
    if situation.obstacles:
        return _blocked(situation)
    decision = try_to_start(situation, situation.capacity)
    if not decision.apply:
        return decision
    turn = order.turn_of(situation, try_to_start)
    if not turn.before:
        return decision
    decision = try_to_start(situation, turn.left)
    return decision if decision.apply else _wait_for_turn(situation, situation.capacity, turn)


def try_to_start(situation: Situation, capacity: Capacity) -> Decision:
    """Return the next attempt's objects if the capacity is enough."""
    try:
        planned, avoided = choose(situation, capacity)
    except SpecError as error:
        return situation.failed(reason="InvalidSpec", message=str(error), planned="False")
    except Infeasible as error:
        return _infeasible(situation, capacity, error)
    if _is_hasty(situation, planned.plan.nodes):
        return _wait_for_capacity(situation, planned.plan.nodes)
    return _begin(situation, capacity, planned, avoided)


def _plan(situation: Situation, capacity: Capacity) -> Planned:
    planned = plan(
        spec=situation.spec,
        model=ModelShape.for_spec(situation.spec.model),
        inventory=capacity.inventory,
        lessons=situation.advice.lessons,
    )
    return replace(planned, reason=explain.priced(planned, situation.advice.prices))


def choose(situation: Situation, capacity: Capacity) -> tuple[Planned, tuple[str, ...]]:
    """Plan within what failures taught, and return the plan with the nodes that it avoids.

    A node that failed repeatedly is better than none at all.
    """
    history = situation.history
    for budget in _budgets(history):
        limited = capacity.within(budget)
        for avoided in dict.fromkeys((history.failed_nodes(), ())):
            with contextlib.suppress(Infeasible):
                return _plan(situation, limited.without(avoided)), avoided
    return _plan(situation, capacity.within(history.memory_budget)), ()


def _budgets(history: History) -> tuple[float | None, ...]:
    """Return the memory budgets to try, GiB a device.

    Where what every plan needs leaves no room for a tenth less, the least that helps must do.
    """
    if history.memory_budget is None:
        return (None,)
    return history.memory_budget, history.plan_memory * _LEANER


def _begin(
    situation: Situation, capacity: Capacity, planned: Planned, avoided: tuple[str, ...]
) -> Decision:
    attempt = situation.attempt + 1
    planned = capacity.explained(planned, avoid=avoided)
    objects = render(
        situation.spec,
        planned.plan,
        situation.run.owner,
        attempt,
        settings=situation.settings,
        placement=capacity.placement(situation.spec, planned, avoid=avoided),
        before_step=situation.history.before_step,
        gang_api=situation.gang,
    )
    gang = objects[3:-1]
    if planned.plan.digest in situation.observed.plans:
        # Immutable, and perhaps written by another version of this operator.
        objects = tuple(item for item in objects if item["kind"] != "ConfigMap")
    message = f"attempt {attempt}: {planned.summary}. {planned.reason}"
    if avoided:
        message += f" Avoids {', '.join(avoided)}, which failed repeatedly."
    if not situation.run.owner.queue:
        lack = gangs.missing(situation.settings.gang, situation.gang)
        message += f" {lack}" if lack else ""
    if attempt > 1 and situation.has_script:
        message += f" {BEGINS_ANEW.capitalize()}."
    changes: dict[str, Any] = {
        "attempt": attempt,
        "plan": plan_block(planned, situation.advice.prices),
        "workers": workers_block((), planned.plan.nodes),
        "startTime": situation.run.status.get("startTime") or format_time(situation.now),
        "completionTime": None,
    }
    if attempt == 1:
        changes["startedNodes"] = planned.plan.nodes
    queued = bool(situation.run.owner.queue)
    phase = names.QUEUED if queued else names.STARTING
    changes |= {"startTime": None} if queued else {}
    report = Report(phase=phase, reason=phase, message=message, planned="True", changes=changes)
    notice = Notice(reason="Starting", message=message)
    objects = remembering(objects, changes["plan"], message)
    return situation.decision(report, apply=objects, events=(notice,), hand_over=gang)


def _infeasible(situation: Situation, capacity: Capacity, error: Infeasible) -> Decision:
    killed = situation.history.failure_of(situation.attempt)
    if killed is not None and killed.reason == host_memory.REASON and _is_too_large(situation):
        gib = (situation.spec.resources.memory_per_node or 0) / _GIB
        message = f"no node has the {gib:.2f} GiB that it would ask for now"
        return situation.failed(
            reason=killed.reason, message=situation.with_cause(message), planned="False"
        )
    if _is_over_budget(situation, capacity):
        message = (
            f"no plan is left within {situation.history.memory_budget:.2f} GiB a device, learnt "
            f"from running out of memory: {error}"
        )
        return situation.failed(
            reason="OutOfMemory", message=situation.with_cause(message), planned="False"
        )
    if _is_hasty(situation, 0):
        return _wait_for_capacity(situation, 0)
    reasons = [_shortage(situation, capacity), *error.reasons]
    if capacity.remark:
        reasons.append(capacity.remark)
    report = Report(
        phase=names.PENDING,
        reason="Infeasible",
        message=situation.with_cause("; ".join(reasons)),
        planned="False",
    )
    return situation.decision(report, requeue_after=_PENDING_POLL)


def _shortage(situation: Situation, capacity: Capacity) -> str:
    """Return `needs 2×8, free: 1×8 H100-80GB; 3 runs ahead, first big`."""
    wanted = situation.spec.resources
    devices = wanted.gpus_per_node or wanted.processes_per_node
    size = f"{wanted.nodes.min}×{devices}" if devices else f"{wanted.nodes.min} nodes or more"
    runs = "1 run ahead" if capacity.ahead == 1 else f"{capacity.ahead} runs ahead"
    ahead = f"; {runs}, first {capacity.first}" if capacity.ahead else ""
    return f"needs {size}, free: {capacity.free}{ahead}"


def _wait_for_turn(situation: Situation, capacity: Capacity, turn: order.Turn) -> Decision:
    """Let those go first that come first; what is left is not enough."""
    message = f"{_shortage(situation, capacity)}; {turn.reason}"
    report = Report(
        phase=names.PENDING,
        reason=order.REASON,
        message=situation.with_cause(message),
        planned="False",
    )
    decision = situation.decision(report, requeue_after=_TURN_POLL)
    return replace(decision, gives_way=turn.can_start)


def _is_too_large(situation: Situation) -> bool:
    """Whether no node, were it empty, has the memory that a pod asks for."""
    asked = situation.spec.resources.memory_per_node
    return asked is not None and asked > situation.largest_memory


def _is_over_budget(situation: Situation, capacity: Capacity) -> bool:
    """Whether only the memory budget stands in the way, not the number of nodes."""
    if situation.history.memory_budget is None:
        return False
    try:
        _plan(situation, capacity)
    except Infeasible:
        return False
    return True


def _is_hasty(situation: Situation, nodes: int) -> bool:
    """Whether a plan for fewer nodes than before would come too soon after the failure."""
    failure = situation.history.failure_of(situation.attempt)
    if failure is None or nodes >= situation.history.plan_nodes:
        return False
    return situation.now < failure.time + _grace(failure)


def _grace(failure: Failure) -> float:
    return LOST_GRACE if failure.reason == disruption.NODE_LOST else CAPACITY_GRACE


def _wait_for_capacity(situation: Situation, nodes: int) -> Decision:
    failure = situation.history.failure_of(situation.attempt)
    assert failure is not None  # noqa: S101 - only a failure makes it hasty
    grace = _grace(failure)
    left = failure.time + grace - situation.now
    message = (
        f"{nodes} of {situation.history.plan_nodes} nodes are there; "
        f"waiting up to {grace:.0f} s for the others"
    )
    report = Report(
        phase=names.RESTARTING, reason="WaitingForCapacity", message=situation.with_cause(message)
    )
    return situation.decision(report, requeue_after=min(left, 2.0))


def _blocked(situation: Situation) -> Decision:
    """Objects are often applied in one go with the run: give them a moment, then stop."""
    message = "; ".join(situation.obstacles)
    failure = situation.history.failure_of(situation.attempt)
    since = max(situation.run.created_at, failure.time if failure else 0.0)
    if situation.now >= since + OBSTACLE_GRACE:
        return situation.failed(reason="Blocked", message=message, planned="False")
    report = Report(phase=names.PENDING, reason="Blocked", message=message, planned="False")
    return situation.decision(report, requeue_after=_OBSTACLE_POLL)
