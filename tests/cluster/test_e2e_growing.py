"""A run follows its cluster: down to one node when one dies, up again when it is back."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from endtoend.bench import Bench, in_phase
from endtoend.nodes import Nodes
from endtoend.recovering import (
    SECONDS,
    losses_by_step,
    node_without_operator,
    recovering,
    start,
)
from endtoend.runs import Body
from qwenft_operator.policies.growth import MARGIN

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

ELASTIC = {"nodes": {"min": 1, "max": 2}}
RIGID = {"nodes": {"min": 2, "max": 2}}


def long(name: str, nodes: Body = ELASTIC) -> Body:
    """Return a run of which much is left whenever it is looked at, in steps of four times as much.

    At a constant rate its first steps are those of any shorter one.
    """
    return recovering(name, epochs=500, resources=nodes, training={"batchSize": 16})


def trains_on(count: int, attempt: int) -> Callable[[Body], bool]:
    def reached(body: Body) -> bool:
        status = body.get("status") or {}
        return (
            status.get("phase") == "Training"
            and status["attempt"] == attempt
            and status["plan"]["nodes"] == count
            and status["progress"]["attempt"] == attempt
        )

    return reached


def test_a_killed_node_is_replaced_by_a_plan_for_what_is_left_until_it_is_back(
    bench: Bench, nodes: Nodes
) -> None:
    name = start(bench, long("elastic"))
    victim = node_without_operator(bench)
    nodes.kill(victim)
    body = bench.wait(name, in_phase("Restarting"), 90)
    failure = body["status"]["failure"]
    assert (failure["reason"], failure["node"]) == ("NodeLost", victim)
    bench.wait(name, trains_on(1, attempt=2), SECONDS)
    alone = some_losses(bench, name)
    nodes.revive()
    status = bench.wait(name, trains_on(2, attempt=3), SECONDS)["status"]
    grown = some_losses(bench, name)
    replan = status["replan"]
    assert replan["savesSeconds"] >= MARGIN * replan["costsSeconds"] > 0
    assert (status["growths"], status["restarts"], status["retries"]) == (1, 1, 1)
    assert min(alone) > 1, "goes on from the checkpoint"
    assert min(grown) > max(alone), "and from the one that the growth saved"
    bench.kubectl("delete", "qft", name, "--wait=true", "--timeout=90s")
    assert_as_undisturbed(bench, alone | grown)


def some_losses(bench: Bench, name: str) -> dict[int, float]:
    """Return the losses of the newest attempt once it has trained two steps."""
    bench.until(lambda: len(losses_by_step(bench, name)) > 1, SECONDS, f"two steps of {name}")
    return losses_by_step(bench, name)


def assert_as_undisturbed(bench: Bench, losses: dict[int, float]) -> None:
    """Compare with the same steps of a run to which nothing happens."""
    name = bench.submit(long("rigid", RIGID))
    last = max(losses)
    bench.wait(name, lambda body: step(body) > last, SECONDS)
    expected = losses_by_step(bench, name)
    bench.kubectl("delete", "qft", name, "--wait=false")
    assert losses == pytest.approx({at: expected[at] for at in losses}, abs=1e-5)


def step(body: Body) -> int:
    return int(((body.get("status") or {}).get("progress") or {}).get("step") or 0)


@pytest.mark.full
def test_a_lowered_maximum_takes_effect_while_it_trains(bench: Bench) -> None:
    name = start(bench, long("lowered"))
    before = bench.wait(name, trains_on(2, attempt=1), SECONDS)["status"]
    lowered = json.dumps({"spec": {"resources": {"nodes": {"max": 1}}}})
    bench.kubectl("patch", "qft", name, "--type=merge", "-p", lowered)
    after = bench.wait(name, trains_on(1, attempt=2), SECONDS)["status"]
    assert after["replan"]["reason"] == "Shrinking"
    assert "restarts" not in after, "asked for, not failed"
    assert min(some_losses(bench, name)) > before["progress"]["step"]
    told = [message for _, reason, message in bench.events(name) if reason == "Shrinking"]
    assert len(told) == 1
    bench.kubectl("delete", "qft", name, "--wait=false")
