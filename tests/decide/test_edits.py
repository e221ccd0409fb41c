"""What may change in a running run does what it says; `nodes.max` is in test_growing."""

from __future__ import annotations

import pytest

from qwenft_operator import names
from simulated import World
from simulated.controllers import fails, succeed_after

LONG = 10**6
OTHER = "registry.example/trainer:2"


def running(*, policy: dict[str, object] | None = None, seconds: float = LONG) -> World:
    """Return a world whose run has been at work for six seconds."""
    world = World()
    world.program(succeed_after(seconds))
    world.submit(runPolicy=policy or {})
    for _ in range(6):
        world.tick()
    assert world.status()["attempt"] == 1
    return world


def live(world: World, seconds: int) -> None:
    for _ in range(seconds):
        world.tick()


def image_of(world: World, attempt: int) -> str:
    job = world.objects["Job", "team", f"tiny-{attempt}"]
    return str(job["spec"]["template"]["spec"]["containers"][0]["image"])


def body(world: World) -> dict[str, object]:
    return world.objects[names.KIND, "team", "tiny"]


@pytest.mark.parametrize(
    "edit",
    [
        {"runPolicy": {"activeDeadlineSeconds": 5000}},
        {"runPolicy": {"backoffLimit": 9}},
        {"runPolicy": {"ttlSecondsAfterFinished": 5000}},
        {"runPolicy": {"cleanPodPolicy": "All"}},
        {"trainer": {"image": OTHER}},
        {"resources": {"nodes": {"min": 2, "max": 3}}},
    ],
    ids=str,
)
def test_an_edit_ends_nothing_that_runs_and_its_generation_is_seen(
    edit: dict[str, dict[str, object]],
) -> None:
    world = running()
    job = world.objects["Job", "team", "tiny-1"]["metadata"]["uid"]
    world.edit(**edit)
    live(world, 20)
    status, generation = world.status(), world.objects[names.KIND, "team", "tiny"]["metadata"]
    assert status["observedGeneration"] == generation["generation"]
    told = {condition["observedGeneration"] for condition in status["conditions"]}
    assert told == {generation["generation"]}
    assert (status["attempt"], status.get("restarts", 0)) == (1, 0)
    assert world.objects["Job", "team", "tiny-1"]["metadata"]["uid"] == job


def test_a_deadline_that_is_set_while_a_run_is_at_work_counts_from_its_start() -> None:
    world = running()
    world.edit(runPolicy={"activeDeadlineSeconds": 20})
    live(world, 10)
    assert world.status()["phase"] == "Starting"
    ended = world.live_until("Failed", seconds=8)
    assert "ran for longer than activeDeadlineSeconds, 20 s" in ended["message"]


def test_a_deadline_that_has_passed_already_ends_the_run_at_once() -> None:
    world = running()
    world.edit(runPolicy={"activeDeadlineSeconds": 3})
    world.settle()
    assert world.status()["phase"] == "Failed"


def test_a_deadline_that_is_put_off_lets_the_run_go_on() -> None:
    world = running(policy={"activeDeadlineSeconds": 12}, seconds=40)
    world.edit(runPolicy={"activeDeadlineSeconds": 500})
    assert world.live_until("Succeeded", "Failed")["phase"] == "Succeeded"


def test_another_image_is_that_of_the_next_attempt_and_not_of_this_one() -> None:
    world = World()
    world.program(fails(69, after=20))
    world.submit(trainer={"image": "registry.example/trainer:1"})
    live(world, 10)
    world.edit(trainer={"image": OTHER})
    live(world, 5)
    assert world.status()["attempt"] == 1
    assert image_of(world, 1) == "registry.example/trainer:1"
    assert world.live_until("Succeeded", "Failed")["phase"] == "Succeeded"
    assert image_of(world, 2) == OTHER


@pytest.mark.parametrize(("before", "after", "phase"), [(3, 0, "Failed"), (0, 3, "Succeeded")])
def test_a_limit_of_restarts_counts_as_it_is_when_an_attempt_fails(
    before: int, after: int, phase: str
) -> None:
    world = World()
    world.program(fails(69, after=20))
    world.submit(runPolicy={"backoffLimit": before})
    live(world, 10)
    world.edit(runPolicy={"backoffLimit": after})
    ended = world.live_until("Succeeded", "Failed")
    assert ended["phase"] == phase
    assert (f"backoffLimit of {after} restarts is used up" in ended["message"]) is (not after)


def test_a_time_to_live_that_is_set_after_the_end_counts_from_the_end() -> None:
    world = running(seconds=8)
    world.live_until("Succeeded")
    live(world, 30)
    assert body(world)
    world.edit(runPolicy={"ttlSecondsAfterFinished": 60})
    live(world, 20)
    assert body(world)
    live(world, 15)
    assert (names.KIND, "team", "tiny") not in world.objects


def test_what_is_kept_of_the_pods_can_be_thought_better_of_after_the_end() -> None:
    world = running(seconds=8)
    world.live_until("Succeeded")
    live(world, 5)
    assert len(world.of_kind("Job")) == 1
    world.edit(runPolicy={"cleanPodPolicy": "All"})
    live(world, 5)
    assert world.of_kind("Job") == []
    assert world.status()["phase"] == "Succeeded"
