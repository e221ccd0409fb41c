"""How many writes a life costs, transition by transition, so that nobody adds one unseen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qwenft_operator.run import Settings
from simulated import World
from simulated.controllers import Ending, fails, succeed_after

REST = 40
START = {"apply": 4, "status": 1, "event": 1}
"""ConfigMap, Service, NetworkPolicy, Job; the status; the Event that tells of the plan."""


class Counted:
    """Counts a world's writes since the last question."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._writes = self._events = 0

    def since(self) -> dict[str, int]:
        found = {"event": len(self._world.events) - self._events}
        for write in self._world.writes[self._writes :]:
            verb = write.split()[0]
            found[verb] = found.get(verb, 0) + 1
        self._writes, self._events = len(self._world.writes), len(self._world.events)
        return {verb: count for verb, count in found.items() if count}


def rest(world: World, counted: Counted) -> None:
    """Check that nothing is written while nothing happens."""
    for _ in range(REST):
        world.tick()
    counted.since()
    for _ in range(REST):
        world.tick()
        world.reconcile()
    assert counted.since() == {}


def started(**sections: object) -> tuple[World, Counted]:
    world = World()
    world.program(succeed_after(10**6))
    counted = Counted(world)
    world.submit(**sections)
    world.settle()
    return world, counted


def test_a_start_is_five_object_writes_and_one_event() -> None:
    _, counted = started()
    assert counted.since() == START


def test_a_gang_scheduler_costs_two_writes_an_attempt_more() -> None:
    """Its object, before the Job, and the same once more to make it the Job's."""
    world = World()
    world.serves = ("scheduling.volcano.sh/v1beta1/PodGroup",)
    world.settings = Settings(gang="volcano")
    world.reconciler = world.new_process()
    world.program(succeed_after(10**6))
    counted = Counted(world)
    world.submit()
    world.settle()
    assert counted.since() == START | {"apply": START["apply"] + 2}
    rest(world, counted)


def test_pods_that_come_up_cost_two_status_writes_at_most() -> None:
    world, counted = started()
    counted.since()
    for _ in range(10):
        world.tick()
    assert counted.since().get("status", 0) <= 2


def test_the_first_report_is_one_status_write_and_one_event() -> None:
    world, counted = started()
    for _ in range(5):
        world.tick()
    counted.since()
    world.report(1)
    world.settle()
    assert counted.since() == {"status": 1, "event": 1}


def test_reports_of_every_second_are_written_every_third() -> None:
    world, counted = started()
    for _ in range(5):
        world.tick()
    world.report(1)
    world.settle()
    counted.since()
    for step in range(2, 102):
        world.report(step)
        world.tick()
    found = counted.since()
    assert found.keys() == {"status"}
    assert 30 <= found["status"] <= 34


@pytest.mark.parametrize("phase", ["Starting", "Training"])
def test_a_run_to_which_nothing_happens_costs_nothing(phase: str) -> None:
    world, counted = started()
    for _ in range(5):
        world.tick()
    if phase == "Training":
        world.report(1)
    world.settle()
    assert world.status()["phase"] == phase
    rest(world, counted)


def test_a_run_that_waits_for_nodes_costs_nothing() -> None:
    world, counted = started(resources={"nodes": {"min": 9, "max": 9}})
    assert counted.since() == {"status": 1, "event": 1}
    rest(world, counted)


def test_a_wrong_request_costs_one_status_and_one_event() -> None:
    world, counted = started(training={"batchSize": -1})
    assert counted.since() == {"status": 1, "event": 1}
    rest(world, counted)


def preempted_once(attempt: int, rank: int, age: float) -> Ending | None:
    if attempt == 1 and rank == 0 and age >= 6:
        return Ending(code=64, message={"exitCode": 64, "reason": "Preempted"})
    return succeed_after(10**6)(attempt, rank, age)


def after(world: World, ready: Callable[[], bool]) -> None:
    for _ in range(100):
        if ready():
            return
        world.tick()
    raise AssertionError(world.status())


def test_a_restart_costs_at_most_seven_status_writes_and_the_objects_of_a_start() -> None:
    world, counted = started()
    world.program(preempted_once)
    for _ in range(4):
        world.tick()
    counted.since()
    after(world, lambda: world.status().get("attempt") == 2)
    for _ in range(10):
        world.tick()
    found = counted.since()
    assert found["apply"] <= START["apply"]
    assert found["status"] <= 7
    assert found["event"] == 2
    assert found.get("delete", 0) <= 1
    rest(world, counted)


def test_suspending_and_resuming_cost_a_deletion_and_a_start() -> None:
    world, counted = started()
    for _ in range(5):
        world.tick()
    counted.since()
    world.edit(runPolicy={"suspend": True})
    after(world, lambda: world.status()["phase"] == "Suspended" and not world.of_kind("Pod"))
    world.settle()
    found = counted.since()
    assert found["delete"] == 1
    assert found["status"] <= 3
    assert "apply" not in found
    rest(world, counted)
    world.edit(runPolicy={"suspend": False})
    world.settle()
    assert counted.since() == START | {"apply": 3}, "the plan is frozen already"


def test_success_costs_three_status_writes_at_most() -> None:
    world, counted = started()
    for _ in range(5):
        world.tick()
    world.report(1)
    world.settle()
    counted.since()
    world.program(succeed_after(0))
    world.live_until("Succeeded")
    found = counted.since()
    assert found["status"] <= 3
    assert found["event"] == 1
    rest(world, counted)


@pytest.mark.parametrize("code", [65, 66, 67])
def test_a_final_failure_is_told_once(code: int) -> None:
    world = World()
    world.program(fails(code, attempts=9))
    counted = Counted(world)
    world.submit()
    world.live_until("Failed")
    for _ in range(20):
        world.tick()
    found = counted.since()
    assert found["apply"] == 4
    assert found["status"] <= 6
    assert found["event"] == 2
    rest(world, counted)


def test_the_writes_of_a_start_do_not_grow_with_the_nodes() -> None:
    for count in (2, 20, 200):
        world = World(nodes=[f"node-{index}" for index in range(count)])
        world.program(succeed_after(10**6))
        counted = Counted(world)
        world.submit(
            training={"batchSize": count * 4}, resources={"nodes": {"min": count, "max": count}}
        )
        world.settle()
        assert counted.since() == START
