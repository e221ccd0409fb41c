"""Who has to wait for whom, asked directly."""

from __future__ import annotations

import pytest

from qwenft_operator.clock import format_time
from qwenft_operator.decision import Decision
from qwenft_operator.nodes import Capacity
from qwenft_operator.observe import Observed
from qwenft_operator.order import turn_of
from qwenft_operator.run import Run
from qwenft_operator.situation import Situation
from qwenft_operator.view import View
from simulated import node_body
from simulated.builders import run_body

NOW = 1_800_000_000.0


def body(name: str, phase: str, age: float) -> dict[str, object]:
    found = run_body(name)
    found["metadata"] |= {"uid": name, "creationTimestamp": format_time(NOW - age)}
    planned = {"type": "Planned", "status": "False", "reason": "Infeasible"}
    found["status"] = {"phase": phase, "attempt": 1, "conditions": [planned]}
    return found


def starts(_situation: Situation, _capacity: Capacity) -> Decision:
    return Decision(apply=({"kind": "ConfigMap", "metadata": {}},))


@pytest.mark.parametrize(("phase", "before"), [("Pending", ("earlier",)), ("Restarting", ())])
def test_a_run_between_two_attempts_waits_for_nobody(phase: str, before: tuple[str, ...]) -> None:
    own = body("own", phase, 10)
    nodes = [node_body(f"node-{index}") for index in range(2)]
    view = View.of(nodes=nodes, pods=[], jobs=[], runs=[own, body("earlier", "Pending", 20)])
    run = Run.from_object(own)
    asking = Situation(
        run=run, observed=Observed(), now=NOW, view=view, capacity=view.capacity_for(run)
    )
    assert turn_of(asking, starts).before == before
