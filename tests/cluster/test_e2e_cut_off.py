"""Nodes that nobody hears of, are emptied, or fail again: whom the run belongs to, and where."""

from __future__ import annotations

import pytest

from endtoend.bench import Bench, in_phase
from endtoend.nodes import Nodes, processes_of
from endtoend.recovering import (
    KILL_RANKS,
    SECONDS,
    STEPS,
    node_without_operator,
    pod_of,
    recovering,
    saved,
    start,
)
from endtoend.runs import Body

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(1500)]

ALONE = {"nodes": {"min": 1, "max": 1}}
ELASTIC = {"nodes": {"min": 1, "max": 2}}
OTHER = {"node-1": "node-2", "node-2": "node-1"}


def trains(attempt: int) -> object:
    def reached(body: Body) -> bool:
        return saved(body) and body["status"]["progress"]["attempt"] == attempt

    return reached


def start_on(bench: Bench, nodes: Nodes, node: str, body: Body) -> str:
    """Start a run of one node there, and return its name once it has saved."""
    nodes.cordon(OTHER[node])
    name = start(bench, body)
    nodes.restore()
    assert node_of(bench, name, 1) == node
    return name


def node_of(bench: Bench, name: str, attempt: int) -> str:
    pod = pod_of(bench, name, 0, attempt)
    return bench.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")


@pytest.mark.parametrize("how", ["cut", "mute"])
def test_an_attempt_that_nobody_sees_any_more_cannot_touch_what_its_successor_saves(
    bench: Bench, nodes: Nodes, undisturbed: float, how: str
) -> None:
    """The volume is there on both nodes, so that only the fence keeps the old attempt from it."""
    victim = node_without_operator(bench)
    body = recovering(f"zombie-{how}", epochs=60, resources=ALONE)
    name = start_on(bench, nodes, victim, body)
    uid = bench.access.run(name)["metadata"]["uid"]
    getattr(nodes, how)(victim)
    assert processes_of(uid, 1), "it goes on where it is"
    bench.wait(name, in_phase("Restarting", "Starting"), SECONDS)
    assert processes_of(uid, 1), "and is there yet when it is given up"
    status = bench.wait(name, trains(2), SECONDS)["status"]
    # It notices with its next save that another attempt owns the checkpoints.
    bench.until(lambda: not processes_of(uid, 1), 120, "the old attempt's end")
    failure = status["failures"][0]
    assert (failure["attempt"], failure["node"]) == (1, victim)
    nodes.restore()
    before = bench.wait(name, trains(2), SECONDS)["status"]
    assert (before["attempt"], before["checkpoint"]["step"] >= status["checkpoint"]["step"]) == (
        2,
        True,
    )
    bench.kubectl("delete", "qft", name, "--wait=true", "--timeout=120s")
    assert_trains_the_same(bench, nodes, victim, undisturbed)


def assert_trains_the_same(bench: Bench, nodes: Nodes, victim: str, expected: float) -> None:
    """Let a short run go through the same kind of life and compare its last loss."""
    name = start_on(bench, nodes, victim, recovering("zombie-short", resources=ALONE))
    nodes.mute(victim)
    status = bench.result(name, SECONDS)
    nodes.restore()
    assert status["result"]["steps"] == STEPS
    assert status["result"]["finalLoss"] == pytest.approx(expected, abs=1e-5)


def test_a_drained_node_costs_no_restart_that_counts(
    bench: Bench, nodes: Nodes, undisturbed: float
) -> None:
    body = recovering("drained", resources=ELASTIC, runPolicy={"backoffLimit": 0})
    name = start(bench, body)
    victim = node_without_operator(bench)
    nodes.cordon(victim)
    run = f"--pod-selector=qwenft.dev/run={name}"
    bench.kubectl("drain", victim, run, "--delete-emptydir-data", "--timeout=90s")
    status = bench.result(name, SECONDS)
    assert (status["restarts"], status.get("retries", 0)) == (1, 0)
    assert status["plan"]["nodes"] == 1
    assert status["result"]["finalLoss"] == pytest.approx(undisturbed, abs=1e-5)


def test_a_node_where_ranks_die_twice_is_avoided_and_named(bench: Bench, nodes: Nodes) -> None:
    victim = node_without_operator(bench)
    name = start_on(bench, nodes, victim, recovering("unlucky", epochs=60, resources=ALONE))
    nodes.cordon(OTHER[victim])
    for attempt in (1, 2):
        bench.wait(name, trains(attempt), SECONDS)
        assert node_of(bench, name, attempt) == victim
        if attempt == 2:
            nodes.restore()  # the other node is free when the second failure is looked at
        pod = pod_of(bench, name, 0, attempt)
        bench.kubectl("exec", pod, "--", "python", "-c", KILL_RANKS)
    bench.wait(name, trains(3), SECONDS)
    assert node_of(bench, name, 3) == OTHER[victim]
    told = [message for _, reason, message in bench.events(name) if reason == "Starting"]
    assert any(f"Avoids {victim}, which failed repeatedly" in message for message in told)
    bench.kubectl("delete", "qft", name, "--wait=false")
