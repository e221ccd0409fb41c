"""A run's whole life against a simulated cluster."""

from __future__ import annotations

import pytest

from qwenft_operator import names
from simulated import World
from simulated.controllers import succeed_after


def event_reasons(world: World) -> list[str]:
    return [event["reason"] for event in world.events]


def test_a_run_trains_and_succeeds() -> None:
    world = World()
    world.submit()
    world.settle()
    assert world.status()["phase"] == "Starting"
    assert world.status()["plan"]["summary"].startswith("2×1 CPU")
    for _ in range(4):
        world.tick()
    world.report(3)
    world.tick()
    assert world.status()["phase"] == "Training"
    assert world.status()["workers"]["ready"] == "2/2"
    status = world.live_until("Succeeded", "Failed")
    assert status["phase"] == "Succeeded"
    assert status["result"]["validationLossAfter"] == 1.5
    progress = status["progress"]
    assert (progress["step"], progress["totalSteps"]) == (100, 100), "the last report said 3"
    assert (progress["validationLoss"], progress["estimatedRemainingSeconds"]) == (1.5, 0.0)
    assert "restarts" not in status
    assert world.condition("Succeeded") == "True"
    assert event_reasons(world) == ["Starting", "Training", "Succeeded"]


@pytest.mark.parametrize(
    ("told", "reason", "words"),
    [
        ({"hubUrl": "https://hub.test/me/x"}, "HubUploaded", "4 steps"),
        ({"hubError": "403 Forbidden"}, "HubUploadFailed", "not on the hub: 403 Forbidden"),
    ],
)
def test_what_became_of_the_copy_for_the_hub_is_told_once_and_fails_nothing(
    told: dict[str, str], reason: str, words: str
) -> None:
    world = World()
    world.submit()
    world.program(succeed_after(30, **told))
    status = world.live_until("Succeeded", "Failed")
    for _ in range(5):
        world.tick()
    assert status["phase"] == "Succeeded"
    assert told.items() <= status["result"].items()
    assert event_reasons(world).count(reason) == 1
    assert (words in status["message"]) == (reason == "HubUploadFailed")


def test_an_attempt_is_made_of_four_objects_and_one_status_write() -> None:
    world = World()
    world.submit()
    world.settle()
    assert world.writes == [
        f"apply ConfigMap/tiny-plan-{world.status()['plan']['digest']}",
        "apply Service/tiny",
        "apply NetworkPolicy/tiny",
        "apply Job/tiny-1",
        "status tiny Starting",
    ]


def test_nothing_is_written_while_nothing_happens() -> None:
    world = World()
    world.submit()
    world.program(succeed_after(500))
    for _ in range(5):
        world.tick()
    world.report(1)
    world.tick()
    before = len(world.writes)
    for _ in range(60):
        world.tick()
    assert len(world.writes) == before
    world.live_until("Succeeded")
    world.tick()
    before = len(world.writes)
    for _ in range(60):
        world.tick()
    assert len(world.writes) == before


def test_progress_is_written_at_most_every_three_seconds() -> None:
    world = World()
    world.submit()
    world.program(succeed_after(500))
    for _ in range(5):
        world.tick()
    before = len(world.writes)
    for step in range(1, 31):
        world.report(step)
        world.tick()
    assert 9 <= len(world.writes) - before <= 11
    assert world.status()["progress"]["step"] >= 28


def under_way() -> World:
    """Return a world whose run has pods, and time left to be disturbed."""
    world = World()
    world.submit()
    world.program(succeed_after(30))
    for _ in range(6):
        world.tick()
    return world


def test_suspend_ends_the_pods_and_resume_starts_another_attempt() -> None:
    world = under_way()
    world.edit(runPolicy={"suspend": True})
    world.settle()
    assert world.status()["phase"] == "Suspended"
    assert world.condition("Suspended") == "False"
    for _ in range(5):
        world.tick()
    assert world.condition("Suspended") == "True"
    assert world.of_kind("Pod") == []
    world.edit(runPolicy={"suspend": False})
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Succeeded", 2)
    assert "failures" not in status


def test_a_suspended_attempt_is_deleted_at_the_very_next_look() -> None:
    world = under_way()
    world.edit(runPolicy={"suspend": True})
    assert world.reconcile() == 0.0, "its number is written, and nothing is waited for"
    assert len(world.of_kind("Job")) == 1
    world.reconcile()
    assert world.of_kind("Job") == []


def test_a_run_may_be_created_suspended() -> None:
    world = World()
    world.submit(runPolicy={"suspend": True})
    world.settle()
    assert world.status()["phase"] == "Suspended"
    assert world.of_kind("Job") == []
    world.edit(runPolicy={"suspend": False})
    assert world.live_until("Succeeded")["attempt"] == 1


def test_a_deadline_ends_the_run_and_its_pods() -> None:
    world = World()
    world.submit(runPolicy={"activeDeadlineSeconds": 12})
    world.program(succeed_after(500))
    status = world.live_until("Failed", seconds=20)
    assert "activeDeadlineSeconds, 12 s" in status["message"]
    for _ in range(4):
        world.tick()
    assert world.of_kind("Pod") == []


def test_a_suspended_run_does_not_use_up_its_deadline() -> None:
    world = World()
    world.submit(runPolicy={"activeDeadlineSeconds": 30, "suspend": True})
    for _ in range(60):
        world.tick()
    assert world.status()["phase"] == "Suspended"


def test_a_finished_run_deletes_itself_when_its_time_is_over() -> None:
    world = World()
    world.submit(runPolicy={"ttlSecondsAfterFinished": 10})
    world.live_until("Succeeded")
    for _ in range(9):
        world.tick()
    assert world.status()["phase"] == "Succeeded"
    for _ in range(6):
        world.tick()
    assert world.status() == {}
    assert world.of_kind("Job") == world.of_kind("Pod") == world.of_kind("Service") == []


@pytest.mark.parametrize(("policy", "left"), [("None", 2), ("Running", 2), ("All", 0)])
def test_pods_of_a_finished_run_are_cleaned_up_as_asked(policy: str, left: int) -> None:
    world = World()
    world.submit(runPolicy={"cleanPodPolicy": policy})
    world.live_until("Succeeded")
    for _ in range(4):
        world.tick()
    assert len(world.of_kind("Pod")) == left


@pytest.mark.parametrize("seconds", [0, 2, 6, 12])
def test_deleting_a_run_at_any_time_leaves_nothing(seconds: int) -> None:
    world = World()
    world.submit()
    for _ in range(seconds):
        world.tick()
    del world.objects[names.KIND, "team", "tiny"]
    for _ in range(5):
        world.tick()
    kinds = {place[0] for place in world.objects}
    assert kinds == {"Node", "PersistentVolumeClaim"}
