"""The work queue: one look at a time, none lost, failures come back later and later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from qwenft_operator import queue as queue_module
from qwenft_operator.queue import WorkQueue

Work = Callable[[str], Awaitable[float | None]]


async def drive(work: Work, scenario: Callable[[WorkQueue[str]], Awaitable[None]]) -> None:
    queue: WorkQueue[str] = WorkQueue(work, jitter=lambda: 1.0)
    task = asyncio.create_task(queue.run(2))
    try:
        await asyncio.wait_for(scenario(queue), timeout=10)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_key_added_many_times_is_worked_on_once() -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        seen.append(key)
        done.set()

    async def scenario(queue: WorkQueue[str]) -> None:
        for _ in range(5):
            queue.add("a")
        await done.wait()

    asyncio.run(drive(work, scenario))
    assert seen == ["a"]


def test_a_key_added_while_worked_on_is_looked_at_again_but_never_twice_at_once() -> None:
    active = 0
    most = 0
    looks = 0
    second = asyncio.Event()

    async def work(_key: str) -> None:
        nonlocal active, most, looks
        active += 1
        looks += 1
        most = max(most, active)
        await asyncio.sleep(0.01)
        active -= 1
        if looks == 2:
            second.set()

    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(0.001)
        for _ in range(3):
            queue.add("a")
        await second.wait()

    asyncio.run(drive(work, scenario))
    assert (most, looks) == (1, 2)


def test_a_look_may_ask_for_the_next() -> None:
    looks: list[float] = []
    twice = asyncio.Event()

    async def work(_key: str) -> float | None:
        looks.append(asyncio.get_running_loop().time())
        if len(looks) == 2:
            twice.set()
            return None
        return 0.05

    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await twice.wait()

    asyncio.run(drive(work, scenario))
    assert looks[1] - looks[0] >= 0.04


def test_failures_come_back_ever_later(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[float] = []
    enough = asyncio.Event()

    async def work(_key: str) -> None:
        looks.append(asyncio.get_running_loop().time())
        if len(looks) == 3:
            enough.set()
            return
        raise ValueError("boom")

    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await enough.wait()

    with caplog.at_level(logging.CRITICAL):
        asyncio.run(drive(work, scenario))
    first, second = looks[1] - looks[0], looks[2] - looks[1]
    assert first >= 0.19
    assert second >= 1.8 * 0.2


def test_an_event_is_not_held_up_by_a_timer() -> None:
    looks = 0
    twice = asyncio.Event()

    async def work(_key: str) -> float | None:
        nonlocal looks
        looks += 1
        if looks == 2:
            twice.set()
        return 3600.0

    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add("a")
        while looks == 0:  # noqa: ASYNC110 - the work itself is what is awaited
            await asyncio.sleep(0.001)
        queue.add("a")
        await twice.wait()

    asyncio.run(drive(work, scenario))
    assert looks == 2


def test_the_earlier_of_two_timers_counts() -> None:
    done = asyncio.Event()

    async def work(_key: str) -> None:
        done.set()

    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add_after("a", 3600.0)
        queue.add_after("a", 0.01)
        queue.add_after("a", 3600.0)
        await done.wait()

    asyncio.run(drive(work, scenario))


def rested(took: float, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], int]:
    """Look for ``took`` seconds at a key that is added all the while; when each look began."""
    monkeypatch.setattr(queue_module, "_SHORTEST_REST", 0.02)
    monkeypatch.setattr(queue_module, "_LONGEST_REST", 0.15)
    began: list[float] = []
    enough = asyncio.Event()

    async def scenario(queue: WorkQueue[str]) -> None:
        queue.add("large")
        for number in range(2000):
            if enough.is_set():
                break
            queue.add("large")
            await asyncio.sleep(0.001 if number % 7 else 0.002)
        assert enough.is_set()

    async def work(_key: str) -> None:
        began.append(asyncio.get_running_loop().time())
        if len(began) == 4:
            enough.set()
        await asyncio.sleep(took)

    asyncio.run(drive(work, scenario))
    return [after - before for before, after in pairwise(began)], len(began)


def test_a_key_whose_looks_take_long_rests_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times as long, or else a run of a thousand pods would keep the operator busy alone."""
    pauses, _ = rested(0.02, monkeypatch)
    assert min(pauses) >= 0.02 * 5 * 0.9
    assert min(rested(0.2, monkeypatch)[0]) >= 0.2 + 0.15 * 0.9, "no longer than the longest rest"


def test_a_key_whose_looks_are_short_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_SHORTEST_REST", 60.0)
    monkeypatch.setattr(queue_module, "_LONGEST_REST", 60.0)
    looks = 0
    enough = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal looks
        looks += 1
        if looks == 5:
            enough.set()
        else:
            queues[0].add(key)

    queues: list[WorkQueue[str]] = []

    async def scenario(queue: WorkQueue[str]) -> None:
        queues.append(queue)
        queue.add("a")
        await enough.wait()

    asyncio.run(drive(work, scenario))


def test_what_is_added_in_a_rest_is_looked_at_once_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_module, "_SHORTEST_REST", 0.0)
    looks: list[str] = []
    resting, second = asyncio.Event(), asyncio.Event()

    async def work(key: str) -> float | None:
        looks.append(key)
        if len(looks) == 1:
            queues[0].add(key)
            await asyncio.sleep(0.02)
            asyncio.get_running_loop().call_later(0.01, resting.set)
            return 0.0
        second.set()
        return None

    queues: list[WorkQueue[str]] = []

    async def scenario(queue: WorkQueue[str]) -> None:
        queues.append(queue)
        queue.add("a")
        await resting.wait()
        for _ in range(5):
            queue.add("a")
            queue.add_after("a", 0.0)
        assert queue._resting == {"a"}
        assert len(looks) == 1
        await second.wait()
        await asyncio.sleep(0.02)

    asyncio.run(drive(work, scenario))
    assert looks == ["a", "a"]
