"""Events that are but the echo of the operator's own writes."""

from __future__ import annotations

import asyncio
from typing import cast

from qwenft_operator import names
from qwenft_operator.app import App, Options
from qwenft_operator.cluster import ApiCluster
from qwenft_operator.reconcile import Key
from simulated import World


def app_on(world: World) -> App:
    return App(cast("ApiCluster", world), Options())


def test_a_run_is_not_looked_at_again_because_of_what_its_own_look_wrote() -> None:
    world = World()
    key = Key("team", "tiny")
    world.submit()

    async def main_() -> list[bool]:
        app = app_on(world)

        def wakes(*, gone: bool = False) -> bool:
            app._queue._waiting.clear()
            app.run_changed(world.objects[names.KIND, "team", "tiny"], gone=gone)
            return key in app._queue._waiting

        found = [wakes()]
        await app._reconciler(key)
        assert world.status()["phase"] == "Starting"
        found.append(wakes())
        world.edit(runPolicy={"suspend": True})
        world.touch(world.objects[names.KIND, "team", "tiny"])
        found.append(wakes())
        await app._reconciler(key)
        return [*found, wakes(), wakes(gone=True)]

    assert asyncio.run(main_()) == [True, False, True, False, True]


def test_another_process_s_write_is_news() -> None:
    world = World()
    world.submit()
    world.settle()  # by the world's own operator
    body = world.objects[names.KIND, "team", "tiny"]

    async def main_() -> bool:
        app = app_on(world)
        app.run_changed(body, gone=False)
        return Key("team", "tiny") in app._queue._waiting

    assert asyncio.run(main_())
