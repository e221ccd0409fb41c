"""Two operators at once, an apiserver that fails now and then, users who edit in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwenft_operator import names
from qwenft_operator.port import Unavailable
from qwenft_operator.reconcile import Key
from simulated import World
from simulated.controllers import Ending, Program, fails, succeed_after

KEY = Key("team", "tiny")
READS = ("get", "list")
WRITES = ("apply", "delete", "replace_status", "create_event")


def preempted_twice(attempt: int, rank: int, age: float) -> Ending | None:
    if attempt <= 2 and rank == 0 and age >= 6:
        return Ending(code=64, message={"exitCode": 64, "reason": "Preempted"})
    return succeed_after(10)(attempt, rank, age)


PROGRAMS: dict[str, Program] = {
    "success": succeed_after(10),
    "preempted": preempted_twice,
    "dataset": fails(65, attempts=9),
    "connections": fails(69, attempts=2),
}


def outcome(world: World) -> tuple[Any, ...]:
    """Return what a user can tell of a run that is over."""
    status = world.status()
    jobs = tuple(job["metadata"]["name"] for job in world.of_kind("Job"))
    counters = tuple(status.get(key) for key in ("attempt", "restarts", "retries"))
    causes = tuple(item["reason"] for item in status.get("failures", ()))
    return (status["phase"], counters, causes, jobs)


def live(world: World, program: Program, look: Callable[[], None]) -> tuple[Any, ...]:
    """Let a run live to its end, looked at by ``look``."""
    world.program(program)
    world.submit()
    world.settle = lambda _name="tiny": look()  # type: ignore[method-assign]
    for _ in range(400):
        world.tick()
        if world.status().get("phase") in names.TERMINAL:
            break
    for _ in range(6):
        world.tick()
    return outcome(world)


def expected(program: Program) -> tuple[Any, ...]:
    world = World()
    settle = world.settle
    return live(world, program, settle)


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_two_operators_at_once_do_the_work_of_one(name: str) -> None:
    world = World()
    rival = world.new_process()
    first = world.reconciler

    async def both() -> None:
        await asyncio.gather(first(KEY), rival(KEY))

    def look() -> None:
        for _ in range(4):
            world.wait_for(both())

    assert live(world, PROGRAMS[name], look) == expected(PROGRAMS[name])


class Unreliable:
    """Lets calls to a world fail: one in ``n``, before or after they took effect."""

    def __init__(self, world: World, seed: int, one_in: int) -> None:
        self._world = world
        self._random = random.Random(seed)  # noqa: S311 - chance for a test, not for a secret
        self._one_in = one_in
        self.failures = 0
        for name in (*READS, *WRITES):
            setattr(world, name, self._wrapped(name))

    def _wrapped(self, name: str) -> Callable[..., Any]:
        original = getattr(self._world, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            fate = self._random.randrange(2 * self._one_in)
            if fate == 0:
                self.failures += 1
                raise Unavailable(f"{name}: before")
            answer = await original(*args, **kwargs)
            if fate == 1:
                self.failures += 1
                raise Unavailable(f"{name}: the answer was lost")
            return answer

        return call


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_an_apiserver_that_fails_now_and_then_delays_but_does_not_change(
    name: str, seed: int
) -> None:
    world = World()
    unreliable = Unreliable(world, seed, one_in=8)

    def look() -> None:
        for _ in range(8):
            try:
                if world.wait_for(world._look(KEY)) != 0.0:
                    return
            except Unavailable:
                continue

    assert live(world, PROGRAMS[name], look) == expected(PROGRAMS[name])
    assert unreliable.failures > 3


def test_an_edit_between_reading_and_writing_wins() -> None:
    world = World()
    world.submit()
    listing = world.list
    edited = False

    async def edit_first(*args: Any, **kwargs: Any) -> Any:
        nonlocal edited
        if not edited:
            edited = True
            world.edit(runPolicy={"suspend": True})
            world.touch(world.objects[names.KIND, "team", "tiny"])
        return await listing(*args, **kwargs)

    world.list = edit_first  # type: ignore[method-assign]
    world.reconcile()
    assert world.status().get("phase") in (None, "Suspended")
    world.settle()
    for _ in range(4):
        world.tick()
    assert world.status()["phase"] == "Suspended"
    assert world.of_kind("Pod") == []


def events_of(world: World) -> Iterator[str]:
    for event in world.events:
        yield event["reason"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("success", ["Starting", "Succeeded"]),
        ("dataset", ["Starting", "DatasetInvalid"]),
        ("preempted", ["Starting", "Preempted", "Starting", "Preempted", "Starting", "Succeeded"]),
    ],
)
def test_a_life_is_told_in_few_events(name: str, told: list[str]) -> None:
    world = World()
    world.program(PROGRAMS[name])
    world.submit()
    world.live_until("Succeeded", "Failed")
    for _ in range(30):
        world.tick()
    assert list(events_of(world)) == told


def test_a_run_that_is_deleted_and_made_again_starts_from_the_beginning() -> None:
    world = World()
    world.program(succeed_after(60))
    world.submit()
    for _ in range(8):
        world.tick()
    del world.objects[names.KIND, "team", "tiny"]
    world.submit()
    world.settle()
    assert world.status()["phase"] == "Pending"
    assert "of an earlier run of this name" in world.status()["message"]
    for _ in range(5):
        world.tick()
    assert world.status()["attempt"] == 1
    uid = world.objects[names.KIND, "team", "tiny"]["metadata"]["uid"]
    for kind in ("Job", "Pod", "ConfigMap", "Service"):
        for body in world.of_kind(kind):
            assert body["metadata"]["labels"][names.LABEL_UID] == uid
    assert world.live_until("Succeeded")["attempt"] == 1


def test_many_runs_take_turns_on_two_nodes_and_all_finish() -> None:
    world = World()
    runs = [f"run-{index}" for index in range(6)]
    for name in runs:
        world.submit(name, resources={"nodes": {"min": 2}, "processesPerNode": 2})
    for _ in range(400):
        for name in runs:
            world.settle(name)
        world.now += 1
        world._controllers.step()
        busy = [pod for pod in world.of_kind("Pod") if pod["status"]["phase"] == "Running"]
        assert len({pod["metadata"]["labels"][names.LABEL_RUN] for pod in busy}) <= 1
        if all(world.status(name).get("phase") == "Succeeded" for name in runs):
            break
    assert {world.status(name)["phase"] for name in runs} == {"Succeeded"}
    assert {world.status(name)["attempt"] for name in runs} == {1}
