"""A run may be resumed at any moment after suspending: the suspended attempt is no lost one."""

from __future__ import annotations

import pytest

from qwenft_operator import names
from simulated import World
from simulated.controllers import succeed_after

JOB = ("Job", "team", "tiny-1")
CLAIM = ("PersistentVolumeClaim", "team", "data")


def trained() -> World:
    """Return a world whose run has trained a step and is asked to suspend."""
    world = World()
    world.submit()
    world.program(succeed_after(15))
    for _ in range(4):
        world.tick()
    world.report(3)
    world.tick()
    assert world.status()["phase"] == "Training"
    world.edit(runPolicy={"suspend": True})
    return world


def resume(world: World) -> None:
    world.edit(runPolicy={"suspend": False})


def check_goes_on(world: World) -> None:
    """Live to the end, and find no trace of a failure."""
    status = world.live_until("Succeeded", "Failed", seconds=100)
    assert (status["phase"], status["attempt"]) == ("Succeeded", 2)
    assert {"restarts", "retries", "failure", "failures"} & set(status) == set()
    assert [event for event in world.events if event["reason"] == "JobDeleted"] == []


def test_a_resume_before_the_suspension_is_noticed_changes_nothing() -> None:
    world = trained()
    resume(world)
    status = world.live_until("Succeeded", "Failed", seconds=100)
    assert (status["phase"], status["attempt"]) == ("Succeeded", 1)


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_resume_after_any_look_at_the_suspension(looks: int) -> None:
    world = trained()
    for _ in range(looks):
        world.reconcile()
    assert (JOB in world.objects) == (looks == 1)
    resume(world)
    check_goes_on(world)
    assert {event["type"] for event in world.events} == {"Normal"}


@pytest.mark.parametrize("seconds", range(6))
def test_a_resume_while_pods_end_and_after(seconds: int) -> None:
    world = trained()
    world.settle()
    for _ in range(seconds):
        world.tick()
    assert bool(world.of_kind("Pod")) == (seconds < 3)
    resume(world)
    check_goes_on(world)
    assert {event["type"] for event in world.events} == {"Normal"}


@pytest.mark.parametrize("seconds", [0, 5])
def test_a_resume_while_the_deleted_job_is_still_listed(seconds: int) -> None:
    world = trained()
    world.reconcile()
    listed = world.objects[JOB]
    world.settle()
    for _ in range(seconds):
        world.tick()
    listed["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    world.objects[JOB] = listed
    resume(world)
    world.settle()
    assert world.status()["phase"] == "Suspended", "its Job is no reason to call it alive"
    del world.objects[JOB]
    check_goes_on(world)
    assert {event["type"] for event in world.events} == {"Normal"}


@pytest.mark.parametrize("seconds", range(6))
def test_a_resume_that_the_apiserver_refuses_at_first(seconds: int) -> None:
    world = trained()
    world.settle()
    for _ in range(seconds):
        world.tick()
    world.refusals["Job"] = "exceeded quota"
    resume(world)
    for _ in range(8):
        world.tick()
    assert world.status()["phase"] == "Pending"
    del world.refusals["Job"]
    check_goes_on(world)


@pytest.mark.parametrize("seconds", range(6))
def test_a_resume_that_finds_no_nodes_at_first(seconds: int) -> None:
    world = trained()
    world.settle()
    for _ in range(5):
        world.tick()
    nodes = [world.objects.pop(("Node", "", name)) for name in ("node-1", "node-2")]
    resume(world)
    for _ in range(seconds):
        world.tick()
    world.settle()
    assert world.status()["phase"] == "Pending"
    for node in nodes:
        world.put(node)
    check_goes_on(world)
    assert {event["type"] for event in world.events} == {"Normal"}


def test_a_resume_that_misses_a_claim_at_first() -> None:
    world = trained()
    world.settle()
    for _ in range(5):
        world.tick()
    claim = world.objects.pop(CLAIM)
    resume(world)
    for _ in range(3):
        world.tick()
    assert world.status()["phase"] == "Pending"
    world.put(claim)
    check_goes_on(world)


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_crash_while_suspending_and_a_resume_at_once(looks: int) -> None:
    for crash_at in range(6):
        world = trained()
        world.crash_at = 2 * len(world.writes) + crash_at
        for _ in range(looks):
            world.reconcile()
        noticed = world.status()["phase"] == "Suspended"
        resume(world)
        status = world.live_until("Succeeded", "Failed", seconds=100)
        assert (status["phase"], status["attempt"]) == ("Succeeded", 2 if noticed else 1)
        assert {"restarts", "failures"} & set(status) == set()


def test_the_attempt_after_a_suspended_one_may_be_lost_and_suspended_again() -> None:
    world = trained()
    world.settle()
    resume(world)
    for _ in range(8):
        world.tick()
    del world.objects["Job", "team", "tiny-2"]
    world.tick()
    status = world.status()
    assert [item["reason"] for item in status["failures"]] == ["JobDeleted"]
    assert (status["attempt"], status["restarts"], status["suspendedAttempt"]) == (2, 1, 1)
    for _ in range(8):
        world.tick()
    world.edit(runPolicy={"suspend": True})
    world.settle()
    resume(world)
    status = world.live_until("Succeeded", "Failed", seconds=100)
    assert (status["phase"], status["attempt"], status["restarts"]) == ("Succeeded", 4, 1)
    assert status["suspendedAttempt"] == 3


def test_an_attempt_whose_write_was_lost_is_known_before_its_suspended_job_is_deleted() -> None:
    world = trained()
    world.settle()
    for _ in range(5):
        world.tick()
    resume(world)
    # The plan is there already: Service, NetworkPolicy and Job are applied before the status.
    world.crash_at = 2 * (len(world.writes) + 3)
    world.reconcile()
    assert world.status()["attempt"] == 1
    assert ("Job", "team", "tiny-2") in world.objects
    world.edit(runPolicy={"suspend": True})
    world.reconcile()
    assert (world.status()["attempt"], world.status()["suspendedAttempt"]) == (2, 2)
    assert ("Job", "team", "tiny-2") in world.objects, "written before it is deleted"
    world.settle()
    resume(world)
    status = world.live_until("Succeeded", "Failed", seconds=100)
    assert (status["phase"], status["attempt"]) == ("Succeeded", 3)
    assert "failures" not in status


def test_a_run_suspended_before_its_first_attempt_remembers_none() -> None:
    world = World()
    world.submit(runPolicy={"suspend": True})
    world.settle()
    assert {"attempt", "suspendedAttempt"} & set(world.status()) == set()
    assert world.status()["phase"] == names.SUSPENDED
