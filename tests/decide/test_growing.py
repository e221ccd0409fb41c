"""Nodes come back, or `nodes.max` changes: when a run that trains goes on by another plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwenft_operator.app import Options
from qwenft_operator.policies.growth import (
    LEAST_AGE,
    MARGIN,
    MOST_AGE,
    Prospect,
    age_needed,
)
from qwenft_operator.run import Settings
from simulated import World, node_body
from simulated.controllers import succeed_after

FOREVER = succeed_after(10**6)
FLEXIBLE = {"nodes": {"min": 1, "max": 2}}
LONG = 5000.0
"""Seconds that are left of a run: a restart pays."""


def training(nodes: tuple[str, ...] = ("node-1",), **sections: Any) -> World:
    """Return a world in which a run trains on the nodes that there are."""
    world = World(nodes=nodes)
    world.program(FOREVER)
    world.submit(**({"resources": FLEXIBLE} | sections))
    for _ in range(5):
        world.tick()
    step(world, 1)
    assert world.status()["phase"] == "Training"
    return world


def step(world: World, number: int, remaining: float = LONG, name: str = "tiny") -> None:
    world.report(number, remaining=remaining, checkpoint=number, name=name)
    world.tick(name)


def train(world: World, seconds: int, remaining: float = LONG, name: str = "tiny") -> None:
    """Let a run train on, reporting now and then, until it is given another attempt."""
    attempt = world.status(name)["attempt"]
    for second in range(seconds):
        if second % 10 == 0:
            world.report(second + 2, remaining=remaining, checkpoint=second, name=name)
        world.tick(name)
        if world.status(name)["attempt"] > attempt:
            return


def nodes(world: World, name: str = "tiny") -> int:
    return int(world.status(name)["plan"]["nodes"])


def told(world: World, reason: str) -> list[str]:
    return [event["message"] for event in world.events if event["reason"] == reason]


def test_a_run_takes_a_node_that_came_back() -> None:
    world = training(("node-1", "node-2"))
    world.lose("node-2")
    world.live_until("Restarting", seconds=40)
    world.live_until("Starting", seconds=40)
    assert nodes(world) == 1
    for _ in range(4):
        world.tick()
    step(world, 5)
    world.put(node_body("node-2"))
    train(world, 150)
    status = world.status()
    assert (status["attempt"], nodes(world), status["growths"]) == (3, 2, 1)
    assert (status["restarts"], status["retries"]) == (1, 1), "the node's loss alone counts"
    assert [item["attempt"] for item in status["failures"]] == [1]
    (message,) = told(world, "Growing")
    replan = status["replan"]
    assert f"{replan['savesSeconds']:.0f} of the 5000 s" in message
    assert f"costs {replan['costsSeconds']:.0f} s" in message
    assert replan["savesSeconds"] > MARGIN * replan["costsSeconds"]


def test_the_pods_save_before_the_next_attempt_starts() -> None:
    world = training()
    world.put(node_body("node-2"))
    for _ in range(200):
        world.tick()
        if world.status()["phase"] == "Restarting":
            break
    assert world.condition("Reconciling") == "True"
    assert world.status()["suspendedAttempt"] == 1
    world.tick()
    (pod,) = world.of_kind("Pod")
    assert pod["metadata"]["deletionGracePeriodSeconds"] > 0, "time to save"
    assert world.live_until("Starting", seconds=30)["attempt"] == 2


def test_an_end_that_is_near_is_not_delayed_by_a_restart() -> None:
    world = training()
    step(world, 2, remaining=8.0)
    world.put(node_body("node-2"))
    train(world, 200, remaining=8.0)
    replan = world.status()["replan"]
    assert (world.status()["attempt"], replan["reason"]) == (1, "DoesNotPay")
    assert 0 < replan["savesSeconds"] < MARGIN * replan["costsSeconds"]
    assert "is to save 2 times as much" in replan["message"]


def test_a_run_that_may_have_no_more_nodes_never_asks() -> None:
    world = training(resources={"nodes": {"min": 1, "max": 1}})
    world.put(node_body("node-2"))
    train(world, 150)
    assert world.status()["attempt"] == 1
    assert "replan" not in world.status()


def test_without_a_maximum_a_run_asks_only_while_it_has_less_than_it_began_with() -> None:
    world = training(("node-1", "node-2"), resources={"nodes": {"min": 1, "max": None}})
    assert world.status()["startedNodes"] == 2
    world.lose("node-2")
    world.live_until("Restarting", seconds=40)
    world.live_until("Starting", seconds=40)
    for _ in range(4):
        world.tick()
    step(world, 5)
    world.put(node_body("node-2"))
    train(world, 150)
    assert nodes(world) == 2
    for _ in range(4):
        world.tick()
    world.put(node_body("node-3"))
    train(world, 300)
    assert (nodes(world), world.status()["growths"]) == (2, 1)


def test_a_script_is_never_restarted_for_speed() -> None:
    world = World(nodes=("node-1",))
    world.put({"kind": "ConfigMap", "metadata": {"name": "code", "namespace": "team"},
               "data": {"train.py": "pass"}})  # fmt: skip
    world.program(FOREVER)
    world.submit(resources=FLEXIBLE, trainer={"script": {"configMap": {"name": "code"}}})
    for _ in range(5):
        world.tick()
    step(world, 1)
    world.put(node_body("node-2"))
    train(world, 150)
    assert world.status()["attempt"] == 1


def test_patience_and_growth_are_the_deployment_s_to_set() -> None:
    given = {"QWENFT_PATIENCE": "30", "QWENFT_GROWTH": "0", "QWENFT_GROWTH_AGE": "7"}
    settings = Options.from_environment(given).settings()
    assert (settings.patience_seconds, settings.growth_seconds) == (30.0, 0.0)
    assert settings.growth_age_seconds == 7.0
    assert Settings().growth_age_seconds == LEAST_AGE
    assert Options.from_environment({}).settings() == Settings()


@pytest.mark.parametrize(("age", "after"), [(12.0, range(12, 20)), (120.0, range(120, 130))])
def test_how_old_an_attempt_must_be_is_the_deployment_s_to_set(age: float, after: range) -> None:
    world = World(nodes=("node-1",))
    world.program(FOREVER)
    world.settings = replace(world.settings, growth_seconds=2.0, growth_age_seconds=age)
    world.reconciler = world.new_process()
    world.submit(resources=FLEXIBLE)
    for _ in range(5):
        world.tick()
    began = world.now
    step(world, 1)
    world.put(node_body("node-2"))
    train(world, 300)
    assert world.status()["growths"] == 1
    assert round(world.now - began) + 5 in after


@pytest.mark.parametrize("least", [1.0, 60.0, 86400.0])
def test_no_number_of_growths_makes_the_next_one_wait_less(least: float) -> None:
    ages = [age_needed(growths, least) for growths in range(40)]
    assert ages[0] == least
    assert ages == sorted(ages)
    assert ages[-1] == max(MOST_AGE, least)


def test_growth_can_be_switched_off() -> None:
    world = training()
    world.settings = replace(world.settings, growth_seconds=0.0)
    world.reconciler = world.new_process()
    world.put(node_body("node-2"))
    train(world, 150)
    assert world.status()["attempt"] == 1


def test_a_waiting_run_comes_before_one_that_would_grow() -> None:
    world = training(resources=FLEXIBLE | {"processesPerNode": 2})
    world.submit("waits", resources={"nodes": {"min": 2, "max": 2}, "processesPerNode": 2})
    world.settle("waits")
    world.put(node_body("node-2"))
    world.settle("waits")
    assert world.status("waits")["phase"] == "Pending"
    train(world, 150)
    assert world.status()["attempt"] == 1
    assert world.status()["replan"]["reason"] == "OthersWait"


def test_a_run_that_could_never_start_keeps_nobody_from_growing() -> None:
    world = training(resources=FLEXIBLE | {"processesPerNode": 2})
    world.submit("huge", resources={"nodes": {"min": 9, "max": 9}, "processesPerNode": 2})
    world.settle("huge")
    world.put(node_body("node-2"))
    train(world, 150)
    assert nodes(world) == 2


def test_a_node_that_comes_and_goes_is_not_followed_for_ever() -> None:
    world = training(("node-1", "node-2"), runPolicy={"backoffLimit": 100})
    lost = 0
    for second in range(1600):
        if second % 10 == 0:
            world.report(second + 2, remaining=LONG, checkpoint=second)
        phase = second % 240
        if phase == 0:
            world.put(node_body("node-2"))
        elif phase == 180:
            world.lose("node-2")
            lost += 1
        world.tick()
    status = world.status()
    assert lost > 5
    assert status.get("growths", 0) <= 2, "after two losses the node is avoided"


@pytest.mark.parametrize("growths", range(40))
def test_each_growth_makes_the_next_wait_longer(growths: int) -> None:
    now, later = age_needed(growths), age_needed(growths + 1)
    assert LEAST_AGE <= now <= later <= MOST_AGE
    assert later == min(MOST_AGE, 2 * now)


def test_gain_and_cost_are_what_they_say() -> None:
    prospect = Prospect(remaining=600.0, speedup=2.0, start=20.0, save=5.0)
    assert (prospect.gain, prospect.cost, prospect.pays) == (300.0, 25.0, True)
    assert replace(prospect, save=None).cost == 40.0
    assert replace(prospect, remaining=99.0).pays is False
    for speedup in (1.0, 0.5, 0.0):
        slower = replace(prospect, speedup=speedup)
        assert (slower.gain, slower.pays) == (0.0, False)


def test_a_lowered_maximum_gives_nodes_back_after_a_save() -> None:
    world = training(("node-1", "node-2"))
    assert nodes(world) == 2
    world.edit(resources={"nodes": {"min": 1, "max": 1}})
    world.settle()
    assert world.status()["phase"] == "Restarting"
    assert "gives 1 of its nodes back" in told(world, "Shrinking")[0]
    status = world.live_until("Starting", seconds=30)
    assert (status["attempt"], nodes(world)) == (2, 1)
    assert "restarts" not in status
    assert "failures" not in status


def test_a_maximum_may_be_lowered_before_the_first_step() -> None:
    world = World()
    world.program(FOREVER)
    world.submit(resources=FLEXIBLE)
    world.settle()
    assert (world.status()["phase"], nodes(world)) == ("Starting", 2)
    world.edit(resources={"nodes": {"min": 1, "max": 1}})
    for _ in range(6):
        world.tick()
    assert (world.status()["attempt"], nodes(world)) == (2, 1)


def test_a_maximum_that_leaves_no_plan_is_named_and_costs_nothing() -> None:
    fixed = {"dataReplicate": 2, "dataShard": 1, "tensor": 1, "pipeline": 1}
    world = training(
        ("node-1", "node-2"), parallelism=fixed, resources=FLEXIBLE | {"processesPerNode": 1}
    )
    world.edit(resources={"nodes": {"min": 1, "max": 1}, "processesPerNode": 1})
    train(world, 200)
    status = world.status()
    assert (status["attempt"], status["phase"], nodes(world)) == (1, "Training", 2)
    assert status["replan"]["reason"] == "NoPlan"
    assert "goes on with 2 nodes" in status["replan"]["message"]


def test_a_raised_maximum_is_taken_up_as_soon_as_it_pays() -> None:
    world = training(("node-1", "node-2"), resources={"nodes": {"min": 1, "max": 1}})
    train(world, 80)
    assert world.status()["attempt"] == 1
    world.edit(resources={"nodes": {"min": 1, "max": 2}})
    world.settle()
    assert world.status()["phase"] == "Restarting"
    assert world.live_until("Starting", seconds=30)["plan"]["nodes"] == 2


def test_an_operator_that_dies_while_it_grows_a_run_grows_it_once() -> None:
    for crash in range(10):
        world = training()
        train(world, 70)
        world.put(node_body("node-2"))
        world.crash_at = 2 * len(world.writes) + crash
        train(world, 150)
        status = world.status()
        assert (status["attempt"], status["growths"], nodes(world)) == (2, 1, 2), crash
        assert "failures" not in status
        running = [pod for pod in world.of_kind("Pod") if pod["status"]["phase"] == "Running"]
        assert all(pod["metadata"]["name"].startswith("tiny-2-") for pod in running)


def test_asking_in_vain_writes_nothing() -> None:
    world = training()
    train(world, 100)
    written = len(world.writes)
    for _ in range(200):
        world.tick()
    assert len(world.writes) == written
