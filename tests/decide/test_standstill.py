"""Attempts that neither end nor get on: how long they are waited for, by whose time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest

from qwenft_operator.app import Options
from qwenft_operator.run import Settings
from qwenft_operator.vigil import PATROL
from simulated import World, node_body
from simulated.controllers import Ending, Program, succeed_after

STEP, FIRST, NODE = 900, 3600, 300
"""Seconds, the defaults."""


def first_hangs(attempt: int, rank: int, age: float) -> Ending | None:
    return succeed_after(10**6 if attempt == 1 else 9)(attempt, rank, age)


def watched(
    program: Program = first_hangs,
    nodes: int = 2,
    resources: Mapping[str, object] | None = None,
    **settings: object,
) -> World:
    """Return a world whose runs report, with one whose pods run."""
    world = World(nodes=[f"node-{index}" for index in range(1, nodes + 1)])
    made = {"progress_url": "https://operator"} | settings
    world.settings = replace(world.settings, **made)  # type: ignore[arg-type]
    world.reconciler = world.new_process()
    world.program(program)
    world.submit(**({} if resources is None else {"resources": dict(resources)}))
    for _ in range(5):
        world.tick()
    return world


def live(world: World, seconds: int, *, every: int = 30) -> None:
    """Let time pass, with a look at the run every so often."""
    for _ in range(0, seconds, every):
        world.now += every
        world.settle()


def trained(step: int = 11, remaining: float | None = None, **settings: object) -> World:
    world = watched(**settings)  # type: ignore[arg-type]
    world.report(step, remaining=remaining)
    world.tick()
    assert world.status()["phase"] == "Training"
    return world


def test_a_run_without_a_new_step_is_restarted() -> None:
    world = trained()
    live(world, STEP - 30)
    assert world.status()["phase"] == "Training"
    live(world, 60)
    status = world.status()
    assert (status["phase"], status["failure"]["reason"]) == ("Restarting", "Hung")
    assert "no progress since step 11" in status["failure"]["message"]
    assert status["failure"]["step"] == 11
    ended = world.live_until("Succeeded", "Failed")
    assert (ended["phase"], ended["attempt"], ended["retries"]) == ("Succeeded", 2, 1)


def test_a_run_of_long_steps_has_five_of_them() -> None:
    world = trained(step=11, remaining=89 * 400.0)
    live(world, 5 * 400 - 60)
    assert world.status()["phase"] == "Training"
    live(world, 120)
    assert world.status()["failure"]["reason"] == "Hung"


def test_a_run_has_an_hour_to_its_first_step() -> None:
    world = watched()
    live(world, FIRST - 60)
    assert world.status()["phase"] == "Starting"
    live(world, 120)
    assert "no progress since its start (nothing was heard of it)" in told(world)


def told(world: World) -> str:
    return str(world.status()["failure"]["message"])


def test_a_run_that_is_stuck_after_its_model_was_loaded_says_that() -> None:
    world = watched()
    world.report(0)
    live(world, FIRST + 120)
    assert "since its start (the model is in place, no step was trained)" in told(world)


def alone(step: int | None, **resources: object) -> World:
    """Return a run of one pod of which nothing more is heard for as long as it may take."""
    world = watched(nodes=1, resources={"nodes": {"min": 1, "max": 1}} | resources)
    if step is not None:
        world.report(step)
        world.tick()
    while "failure" not in world.status():
        live(world, 30)
    return world


@pytest.mark.parametrize("step", [None, 11])
def test_the_only_pod_of_a_hung_run_is_named_with_its_node(step: int | None) -> None:
    world = alone(step)
    failure = world.status()["failure"]
    assert (failure["reason"], failure["pod"], failure["node"]) == ("Hung", "tiny-1-0-x", "node-1")
    assert "pod tiny-1-0-x on node-1 is its only one" in failure["message"]
    (event,) = (each for each in world.events if each["reason"] == "Hung")
    assert "pod tiny-1-0-x on node-1" in event["message"].partition(": no progress")[0]


def test_the_only_rank_of_a_hung_run_is_named_and_one_of_several_is_not() -> None:
    ranks = [alone(11, processesPerNode=n).status()["failure"].get("rank") for n in (1, 2)]
    assert ranks == [0, None]


def test_the_only_pod_that_is_not_ready_is_named() -> None:
    world = trained()
    pod = world.objects["Pod", "team", "tiny-1-1-x"]
    pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    live(world, STEP + 60)
    failure = world.status()["failure"]
    assert (failure["reason"], failure["pod"], failure["node"]) == ("Hung", "tiny-1-1-x", "node-2")
    assert "is the only one of 2 not ready" in failure["message"]
    assert "rank" not in failure


def test_of_several_pods_that_look_alike_none_is_blamed() -> None:
    world = trained()
    live(world, STEP + 60)
    failure = world.status()["failure"]
    assert failure["reason"] == "Hung"
    assert {"pod", "node", "rank"}.isdisjoint(failure)
    assert "which of its 2 pods stands still is not known" in failure["message"]
    assert "docs/howto/debug-a-failed-run.md" in failure["message"]


@pytest.mark.parametrize("step", [10.0, 900.0, 7200.0])
@pytest.mark.parametrize("first", [5.0, 3600.0, 86400.0])
def test_the_ranks_own_watchdogs_speak_before_the_operator_does(step: float, first: float) -> None:
    """Ranks have thrice as long before their first step, and a tenth more where they wait."""
    settings = Settings(step_patience=step, first_step_patience=first)
    assert 1.1 * settings.rank_patience < step
    assert 3 * 1.1 * settings.rank_patience < max(step, first)
    assert Settings().rank_patience == 600.0


def test_a_run_has_an_hour_to_write_its_model_after_the_last_step() -> None:
    world = trained(step=100)
    live(world, FIRST - 60)
    assert world.status()["phase"] == "Training"
    live(world, 120)
    assert world.status()["failure"]["reason"] == "Hung"


def test_pods_that_cannot_report_are_not_taken_for_hung() -> None:
    world = watched(progress_url="")
    live(world, 2 * FIRST)
    assert (world.status()["phase"], world.status()["attempt"]) == ("Starting", 1)


def test_a_silent_run_is_looked_at_without_an_event() -> None:
    world = trained()
    world.settle()
    assert world.reconcile() == PATROL
    live(world, STEP - 30)
    soon = world.reconcile()
    assert soon is not None
    assert 0 < soon <= 31


@pytest.mark.parametrize("down", [3600, 90 * 86400])
def test_an_operator_that_was_down_ends_no_healthy_run(down: int) -> None:
    world = trained()
    world.now += down
    world.reconciler = world.new_process()
    world.settle()
    live(world, STEP - 60)
    assert world.status()["phase"] == "Training"
    world.report(12)
    live(world, 60)
    assert world.status()["attempt"] == 1
    assert "failure" not in world.status()


def test_an_apiserver_that_was_silent_for_an_hour_ends_no_healthy_run() -> None:
    world = trained()
    world.now += 3600  # no look succeeded, and no report was let in
    world.settle()
    assert world.status()["phase"] == "Training"
    world.report(12)
    world.settle()
    assert world.status()["attempt"] == 1


def unplaced(**settings: object) -> World:
    """Return a world in which one of two nodes went between the plan and the pods."""
    world = World()
    world.program(first_hangs)
    world.settings = replace(world.settings, **settings)  # type: ignore[arg-type]
    world.reconciler = world.new_process()
    world.submit()
    world.settle()
    world.lose("node-2")
    for _ in range(3):
        world.tick()
    return world


def test_half_a_gang_gives_its_node_back_and_is_planned_anew() -> None:
    world = unplaced()
    assert "1 of 2 pods find no node" in world.status()["message"]
    live(world, NODE - 30)
    assert len(world.of_kind("Pod")) == 2
    live(world, 60)
    for _ in range(40):
        world.tick()
    status = world.status()
    assert (status["phase"], status["failure"]["reason"]) == ("Pending", "Unschedulable")
    assert (status["restarts"], status["retries"]) == (1, 0)
    assert world.of_kind("Pod") == []
    world.put(node_body("node-2"))
    ended = world.live_until("Succeeded", "Failed")
    assert (ended["phase"], ended["attempt"], ended["retries"]) == ("Succeeded", 2, 0)


class Refusing(World):
    """A cluster that offers two nodes, of which the scheduler takes one."""

    def tick(self, name: str = "tiny") -> None:
        self.objects["Node", "", "node-2"] = self.put(node_body("node-2", ready=False))
        self.now += 1.0
        self._controllers.step()
        self.put(node_body("node-2"))
        self.settle(name)


def test_each_release_is_followed_by_a_longer_rest() -> None:
    world = Refusing()
    world.settings = replace(world.settings, node_patience=20.0)
    world.reconciler = world.new_process()
    world.program(succeed_after(10**6))
    world.submit()
    starts: dict[int, float] = {}
    for _ in range(400):
        world.tick()
        starts.setdefault(world.status()["attempt"], world.now)
    gaps = [starts[n + 1] - starts[n] for n in range(1, 5)]
    rests = [after - before for before, after in itertools.pairwise(gaps)]
    assert rests == pytest.approx([10, 20, 40], abs=4)
    assert world.status()["retries"] == 0


def test_an_hour_on_the_clock_does_not_release_a_gang() -> None:
    world = unplaced()
    body = world.of_kind("Pod")[0]
    body["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z"
    live(world, NODE - 60)
    assert "failures" not in world.status()


def test_all_patience_is_the_deployment_s_to_set() -> None:
    words = ("STEP", "FIRST_STEP", "NODE", "IMAGE")
    given = {f"QWENFT_{word}_PATIENCE": str(n) for n, word in enumerate(words, 1)}
    settings = Options.from_environment(given).settings()
    found = (settings.step_patience, settings.first_step_patience,
             settings.node_patience, settings.image_patience)  # fmt: skip
    assert found == (1.0, 2.0, 3.0, 4.0)
    assert (Settings().step_patience, Settings().first_step_patience) == (STEP, FIRST)
    assert Settings().node_patience == NODE
    world = trained(step_patience=40.0)
    live(world, 60, every=10)
    assert world.status()["failure"]["reason"] == "Hung"
