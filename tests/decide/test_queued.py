"""Runs in a queue of Kueue's, and runs that are another controller's. Kueue is a stand-in here.

The stand-in does to the Job what Kueue does: it sets ``spec.suspend``, and nothing else.
"""

from __future__ import annotations

import pytest

from simulated import World
from simulated.controllers import succeed_after

TOPOLOGY = "kueue.x-k8s.io/podset-required-topology"


def queued(world: World, **sections: object) -> None:
    """Submit a run with a queue's label, and let it come to its Job."""
    world.submit(**sections)
    world.queue("team-queue")
    world.program(succeed_after(60))
    world.settle()


def ticks(world: World, count: int) -> None:
    for _ in range(count):
        world.tick()


def test_a_job_in_a_queue_is_made_suspended_and_labelled() -> None:
    world = World()
    queued(world, runPolicy={"priorityClassName": "research"})
    job = world.objects["Job", "team", "tiny-1"]
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-queue"
    assert job["spec"]["template"]["spec"]["priorityClassName"] == "research"
    assert world.status()["phase"] == "Queued"
    ticks(world, 5)
    assert world.of_kind("Pod") == []
    assert "queue team-queue to admit Job tiny-1" in world.status()["message"]


def test_topology_annotations_reach_the_pods() -> None:
    world = World()
    world.submit()["metadata"]["annotations"] = {TOPOLOGY: "cloud/rack", "other": "x"}
    world.queue("team-queue")
    world.settle()
    template = world.objects["Job", "team", "tiny-1"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {TOPOLOGY: "cloud/rack"}


def test_the_queue_admits_preempts_and_admits_again_without_a_failure() -> None:
    world = World()
    queued(world)
    ticks(world, 30)
    world.admit()
    ticks(world, 6)
    world.report(7, checkpoint=5)
    ticks(world, 1)
    assert world.status()["phase"] == "Training"
    world.admit(admitted=False)
    ticks(world, 6)
    assert world.status()["phase"] == "Queued"
    assert "preempted by the queue team-queue" in world.status()["message"]
    assert world.of_kind("Pod") == []
    world.now += 4000  # longer than any limit of silence
    ticks(world, 5)
    assert (world.status()["phase"], world.status()["attempt"]) == ("Queued", 1)
    world.admit()
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Succeeded", 1)
    assert "failures" not in status
    assert "restarts" not in status


def test_the_operator_never_unsuspends_the_job() -> None:
    world = World()
    queued(world)
    for _ in range(10):
        world.reconciler = world.new_process()
        ticks(world, 3)
    assert [write for write in world.writes if "Job" in write] == ["apply Job/tiny-1"]
    assert world.objects["Job", "team", "tiny-1"]["spec"]["suspend"] is True


def test_a_wait_in_a_queue_does_not_use_up_the_deadline() -> None:
    world = World()
    queued(world, runPolicy={"activeDeadlineSeconds": 20})
    ticks(world, 100)
    assert world.status()["phase"] == "Queued"
    world.admit()
    ticks(world, 30)
    assert world.status()["phase"] == "Failed"
    assert "activeDeadlineSeconds" in world.status()["message"]


def test_a_queued_run_is_planned_for_the_nodes_that_there_are() -> None:
    world = World()
    world.submit("first")
    world.settle("first")
    assert len(world.of_kind("Job")) == 1
    queued(world)
    assert world.status()["phase"] == "Queued", "the nodes are taken, and may be preempted"


def test_suspending_a_queued_run_takes_its_job_away() -> None:
    world = World()
    queued(world)
    world.edit(runPolicy={"suspend": True})
    ticks(world, 4)
    assert world.status()["phase"] == "Suspended"
    assert world.of_kind("Job") == []


@pytest.mark.parametrize("manager", ["", "qwenft.dev/operator"])
def test_a_run_of_this_operator_is_started(manager: str) -> None:
    world = World()
    world.submit(runPolicy={"managedBy": manager})
    world.settle()
    assert world.status()["phase"] == "Starting"


def test_a_run_that_another_controller_manages_is_left_alone() -> None:
    world = World()
    world.submit(runPolicy={"managedBy": "kueue.x-k8s.io/multikueue"})
    ticks(world, 20)
    assert world.status() == {}
    assert world.writes == []
