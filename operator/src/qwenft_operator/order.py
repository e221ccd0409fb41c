"""Who goes first among the runs that wait for the same nodes. Pure.

Runs start by priority, then by age. Two things follow from that for a run that could start:

1. a run before it that could start too goes first, and takes its nodes out of what is left;
2. a run before it that cannot start yet is overtaken, so that free nodes do useful work, but only
   until it has waited for ``Settings.patience_seconds``. From then on as many nodes as it needs are
   kept for it: those that have the most free already. No later run takes any of them, running ones
   end, and so it starts at last.

A run between two attempts comes before all that wait: it only takes back what it had.

A run that could not start even if no other run took anything keeps nobody waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qwenft_operator import names
from qwenft_operator.clock import parse_time
from qwenft_operator.decision import Decision
from qwenft_operator.nodes import Capacity
from qwenft_operator.observe import Observed
from qwenft_operator.run import Run
from qwenft_operator.situation import Situation
from qwenft_operator.view import View, known_as

__all__ = ["REASON", "TURN_SECONDS", "Turn", "others_wait", "turn_of"]

TURN_SECONDS = 120.0
"""Seconds that a run that can start has to do so before later ones go on without it."""
REASON = "WaitingForTurn"
_ASKING = ("Infeasible", REASON)
_MOST = 20
"""Runs ahead that are looked at: each costs a plan."""

Try = Callable[[Situation, Capacity], Decision]
"""Tries to start a run on a capacity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What is left for a run by those that go before it."""

    left: Capacity
    before: tuple[str, ...] = ()
    """Those that leave less than there is."""
    can_start: bool = False
    """Whether one of them could start right now."""
    patience: float = 0.0
    """Seconds for which those may be overtaken that cannot start."""

    @property
    def reason(self) -> str:
        """Why the run waits, for people."""
        first = self.before[0]
        more = f" and {len(self.before) - 1} more" if len(self.before) > 1 else ""
        if self.can_start:
            return f"{first}{more} may start first"
        return (
            f"nodes are kept for {first}{more}, overtaken for {self.patience / 60:.3g} min already"
        )


def turn_of(situation: Situation, attempt: Try) -> Turn:
    """Return what is left for a run that could start on what is free."""
    capacity, view = situation.capacity, situation.view
    assert capacity is not None  # noqa: S101 - only what has been counted can be shared
    # A run between two attempts goes on with what it had.
    if view is None or situation.history.phase == names.RESTARTING:
        return Turn(left=capacity)
    before: list[str] = []
    can_start = False
    for body in (*view.unkept(), *view.ahead_of(situation.run)[:_MOST]):
        rival = _rival(situation, Run.from_object(body))
        if rival is None:
            continue
        decision = attempt(rival, _free_for(rival, view))
        if decision.apply and situation.gave_way_for < TURN_SECONDS:
            view, can_start = view.after(rival.run, decision), True
        elif not decision.apply and (kept := _kept(rival, view, attempt)):
            view = view.less(kept)
        else:
            continue
        before.append(known_as(body, situation.run))
    left = _free_for(situation, view) if before else capacity
    patience = situation.settings.patience_seconds
    return Turn(left=left, before=tuple(before), can_start=can_start, patience=patience)


def others_wait(situation: Situation, attempt: Try) -> bool:
    """Whether a run that has nodes should not take more of them: others have none, or fewer.

    Those count that are of no lower priority and could start on the nodes of this cluster at all.
    """
    view = situation.view
    if view is None:
        return False
    if view.unkept():
        return True
    emptied = view.emptied()
    rivals = (_rival(situation, Run.from_object(body)) for body in view.equals_of(situation.run))
    return any(
        bool(attempt(rival, _free_for(rival, emptied)).apply)
        for rival in rivals
        if rival is not None
    )


def _rival(situation: Situation, run: Run) -> Situation | None:
    """Return the situation of a run that nothing but nodes keeps from starting, else None."""
    asks = _condition(run, names.PLANNED).get("reason") in _ASKING
    if run.spec is None or (run.phase in ("", names.PENDING) and not asks):
        return None
    return Situation(
        run=run,
        observed=Observed(),
        now=situation.now,
        settings=situation.settings,
        advice=situation.advice,
    )


def _free_for(situation: Situation, view: View) -> Capacity:
    return view.capacity_for(situation.run, situation.advice.networks)


def _kept(rival: Situation, view: View, attempt: Try) -> tuple[str, ...]:
    """Return the nodes that are kept for a run which has waited for long."""
    if rival.now - _waiting_since(rival.run) < rival.settings.patience_seconds:
        return ()
    whole = _free_for(rival, view.emptied())
    decision = attempt(rival, whole)
    if not decision.apply or decision.status is None:
        return ()
    plan = decision.status["plan"]
    fitting = _fitting(view, decision) & {
        offer.shape.name
        for offer in whole.offers
        if offer.shape.devices >= plan["processesPerNode"]
    }
    free = {offer.shape.name: offer.shape.devices for offer in _free_for(rival, view).offers}
    ranked = sorted(fitting & free.keys(), key=lambda name: (-free[name], name))
    return tuple(ranked[: plan["nodes"]])


def _fitting(view: View, decision: Decision) -> set[str]:
    """Return the nodes that the pods of the decision's Job may land on, by its selector."""
    selectors = [
        (item["spec"]["template"]["spec"].get("nodeSelector") or {}).items()
        for item in decision.apply
        if item["kind"] == "Job"
    ]
    return {
        node["metadata"]["name"]
        for node in view.nodes
        if all(wanted <= (node["metadata"].get("labels") or {}).items() for wanted in selectors)
    }


def _waiting_since(run: Run) -> float:
    """Return since when a run waits: its creation, its last loss of nodes, or its resumption."""
    times = [
        parse_time(_condition(run, kind).get("lastTransitionTime"))
        for kind in (names.READY, names.SUSPENDED)
    ]
    return max([run.created_at, *(time for time in times if time is not None)])


def _condition(run: Run, kind: str) -> dict[str, Any]:
    found = [item for item in run.status.get("conditions") or () if item["type"] == kind]
    return dict(found[0]) if found else {}
