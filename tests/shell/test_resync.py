"""What keeps runs going when no event tells of them: the resync, the queue, the probe."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from qwenft_operator.app import App, Options, _due, _needs_resync
from qwenft_operator.cluster import ApiCluster
from qwenft_operator.port import Refused, Unavailable
from simulated import World


def app_on(world: World) -> App:
    return App(cast("ApiCluster", world), Options())


@pytest.mark.parametrize(
    ("status", "policy", "generation", "needed"),
    [
        ({}, {}, 1, True),
        ({"phase": "Training", "observedGeneration": 1}, {}, 1, True),
        ({"phase": "Succeeded", "observedGeneration": 1}, {}, 1, False),
        ({"phase": "Failed", "observedGeneration": 1}, {}, 2, True),
        ({"phase": "Succeeded", "observedGeneration": 1}, {"ttlSecondsAfterFinished": 5}, 1, True),
    ],
)
def test_runs_that_are_over_are_not_looked_at_every_minute(
    status: dict[str, Any], policy: dict[str, Any], generation: int, *, needed: bool
) -> None:
    body = {"metadata": {"generation": generation}, "spec": {"runPolicy": policy}, "status": status}
    assert _needs_resync(body) is needed


def active(count: int) -> list[Any]:
    return [{"metadata": {"uid": f"uid-{index}", "name": str(index)}} for index in range(count)]


@pytest.mark.parametrize("count", [0, 1, 50])
def test_up_to_fifty_runs_are_looked_at_in_every_resync(count: int) -> None:
    assert [len(_due(active(count), turn)) for turn in range(3)] == [count] * 3


def test_a_thousand_runs_take_turns_and_none_is_left_out() -> None:
    bodies = active(1000)
    turns = [_due(bodies, turn) for turn in range(20)]
    assert all(25 <= len(turn) <= 75 for turn in turns)
    seen = sorted(int(body["metadata"]["name"]) for turn in turns for body in turn)
    assert seen == list(range(1000))


def test_the_process_lives_while_its_tasks_do() -> None:
    async def main_() -> tuple[str, str, str]:
        app = app_on(World())
        forever = asyncio.create_task(asyncio.Event().wait(), name="queue")
        app._tasks = [cast("asyncio.Task[None]", forever)]
        well = app.trouble()
        app._listed_at = time.monotonic() - 1000
        silent = app.trouble()
        forever.cancel()
        await asyncio.gather(forever, return_exceptions=True)
        return well, silent, app.trouble()

    well, silent, dead = asyncio.run(main_())
    assert well == ""
    assert "no list of runs" in silent
    assert dead == "ended: queue"


def test_resync_finds_runs_of_which_no_event_told() -> None:
    world = World()
    world.submit()
    world.submit("other")
    world.program(lambda *_: None)

    async def main_() -> None:
        app = app_on(world)
        tasks = [
            asyncio.create_task(app._queue.run(2)),
            asyncio.create_task(app._resync()),
        ]
        for _ in range(200):
            if len(world.of_kind("Job")) == 1 and world.status("other"):
                break
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main_())
    phases = {world.status(name).get("phase") for name in ("tiny", "other")}
    assert "Starting" in phases


@pytest.mark.parametrize("error", [Unavailable("away"), Refused("list", "forbidden, for a moment")])
def test_an_apiserver_that_is_away_or_knows_no_rights_does_not_end_the_resync(
    error: Exception,
) -> None:
    world = World()
    calls = 0

    async def listing(*_args: Any, **_kwargs: Any) -> tuple[Any, ...]:
        nonlocal calls
        calls += 1
        raise error

    world.list = listing  # type: ignore[method-assign]

    async def main_() -> bool:
        app = app_on(world)
        task = asyncio.create_task(app._resync())
        while calls == 0:  # noqa: ASYNC110 - the listing itself is what is awaited
            await asyncio.sleep(0.001)
        alive = not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return alive

    assert asyncio.run(main_())


def test_a_right_that_is_missing_is_a_line_in_the_log_and_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.submit()

    async def get(*_args: Any, **_kwargs: Any) -> None:
        raise Refused("QwenFineTune tiny", "User cannot get resource")

    world.get = get  # type: ignore[method-assign]

    async def main_() -> None:
        app = app_on(world)
        task = asyncio.create_task(app._queue.run(1))
        app.wake("team", "tiny")
        while not caplog.records:  # noqa: ASYNC110 - the line itself is what is awaited
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main_())
    assert "look 1 in vain" in caplog.text
    assert "User cannot get resource" in caplog.text
    assert all(not record.exc_info for record in caplog.records)
