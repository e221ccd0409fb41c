"""Jobs and pods that were read at different moments: no end is judged by half of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from simulated import World
from simulated.controllers import Program, fails, succeed_after

Pods = tuple[dict[str, Any], ...]


def old_pods_after_the_end(world: World, looks: int, *, from_second: int) -> list[int]:
    """Show, once a Job has ended, pods as they were some seconds after the start, ``looks`` times.

    Returns a list that grows by one with every such look.
    """
    shown: list[int] = []
    kept: list[Pods] = []
    read: Callable[..., Any] = world.list
    began = world.now

    async def listed(kind: str, *args: Any, **words: Any) -> Pods:
        found: Pods = await read(kind, *args, **words)
        if kind != "Pod" or words.get("fields"):
            return found
        if not kept and world.now - began >= from_second:
            kept.append(copy.deepcopy(found))
        if kept and len(shown) < looks and has_ended(world):
            shown.append(len(kept[0]))
            return kept[0]
        return found

    world.list = listed  # type: ignore[method-assign]
    return shown


def has_ended(world: World) -> bool:
    return any(
        item["type"] in ("Complete", "Failed")
        for job in world.of_kind("Job") for item in job.get("status", {}).get("conditions", ())
    )  # fmt: skip


@pytest.mark.parametrize(("program", "phase"), [(succeed_after(10), "Succeeded"),
                                                (fails(65, attempts=9), "Failed")])  # fmt: skip
def test_a_job_that_ended_is_not_judged_by_pods_that_seem_to_run(
    program: Program, phase: str
) -> None:
    world = World()
    shown = old_pods_after_the_end(world, 3, from_second=4)
    world.submit()
    world.program(program)
    status = world.live_until("Succeeded", "Failed", seconds=60)
    assert shown == [2, 2, 2]
    assert status["phase"] == phase
    if phase == "Succeeded":
        assert status["result"]["validationLossAfter"] == 1.5
    else:
        assert (status["failure"]["reason"], status["failure"]["rank"]) == ("DatasetInvalid", 1)


def test_a_completed_job_is_not_judged_without_pods_for_a_moment() -> None:
    world = World()
    shown = old_pods_after_the_end(world, 3, from_second=0)
    world.submit()
    world.program(succeed_after(10))
    status = world.live_until("Succeeded", "Failed", seconds=60)
    assert shown == [0, 0, 0]
    assert status["result"]["steps"] == 100


def test_pods_that_were_collected_keep_no_completed_job_from_counting() -> None:
    world = World()
    shown = old_pods_after_the_end(world, 99, from_second=0)
    world.submit()
    world.program(succeed_after(10))
    status = world.live_until("Succeeded", "Failed", seconds=60)
    assert len(shown) >= 10
    assert (status["phase"], status["message"]) == ("Succeeded", "all pods completed")


def test_a_failed_job_is_not_judged_without_pods_for_a_moment() -> None:
    world = World()
    shown = old_pods_after_the_end(world, 3, from_second=0)
    world.submit()
    world.settle()
    world.program(fails(65, attempts=9))
    while not has_ended(world):
        world.pass_unseen(1)
    status = world.live_until("Failed", seconds=60)
    assert shown == [0, 0, 0]
    assert (status["failure"]["reason"], status["failure"]["rank"]) == ("DatasetInvalid", 1)
    assert status["attempt"] == 1, "what ended it was taken for a deleted pod"


def test_an_attempt_of_which_only_the_pods_are_seen_is_not_lost() -> None:
    """It was made, the status was never written, and lists of Jobs are from before it."""
    world = World()
    world.submit()
    read: Callable[..., Any] = world.list
    shown = 0

    async def listed(kind: str, *args: Any, **words: Any) -> Pods:
        nonlocal shown
        if kind != "Job" or shown == 9:
            found: Pods = await read(kind, *args, **words)
            return found
        shown += 1
        return ()

    world.list = listed  # type: ignore[method-assign]
    world.program(succeed_after(10))
    world.crash_at = 7  # after the fourth write: ConfigMap, Service, NetworkPolicy, Job
    world.reconcile()
    assert world.writes[-1] == "apply Job/tiny-1"
    world.pass_unseen(2)
    status = world.live_until("Succeeded", "Failed", seconds=60)
    assert (status["attempt"], status.get("restarts", 0), shown) == (1, 0, 9)
