"""What the operator is told is wrong, late or missing, and runs end as they would have ended.

Real apiserver and Job controller; between them and the operator stands :mod:`chaos.gate`. A seed
draws three kinds of faults out of twelve and how often they come. Pods are those of
:mod:`chaos.kubelet`; the resync is every 3 s instead of every 60.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.campaign import Campaign, Verdicts, on_a_plane
from chaos.lives import LIVES
from chaos.meddlers import Silence, Spoiler, Undiscovered
from chaos.scene import Scene, scene
from embedded import processes

pytestmark = pytest.mark.cluster

JUMPS = (-600.0, 120.0)
PIECE = 25
"""Seeds of one test: a part of the campaign that fails, or was not run, is run by itself."""


async def spoilt(stage: Scene, campaign: Campaign, verdicts: Verdicts, seed: int) -> None:
    """Lead one life with spoilt answers; of four one with two operators, one with a wrong clock."""
    name = tuple(LIVES)[seed % len(LIVES)]
    made: list[Spoiler] = []

    def spoil(_: Callable[[], None]) -> Spoiler:
        made.append(Spoiler(seed))
        return made[-1]

    count = 2 if seed % 4 == 1 else 1
    ahead = JUMPS[seed // 4 % 2] if seed % 4 == 2 else 0.0
    what = f"seed {seed}, operators {count}, clock {ahead:+.0f} s, {Spoiler(seed).kinds}"
    await campaign.lead(
        verdicts, what, name,
        lambda life: stage.live(life, meddler=spoil, count=count, ahead=ahead),
    )  # fmt: skip
    verdicts.struck += made[-1].done


async def shaken(stage: Scene, campaign: Campaign, verdicts: Verdicts, rounds: int) -> None:
    """Restart the apiserver and stop etcd for moments while lives go on."""
    lives = [
        campaign.lead(verdicts, "apiserver restarts, etcd stands still", name, stage.live)
        for name in LIVES for _ in range(rounds)
    ]  # fmt: skip
    together = asyncio.gather(*lives)
    for number in itertools.count():
        done, _ = await asyncio.wait([together], timeout=4.0)
        if done:
            return
        if number % 3 == 2:
            await asyncio.to_thread(stage.plane.stop, "apiserver")
            await asyncio.to_thread(stage.plane.start_apiserver)
            verdicts.struck.append("apiserver restart")
        else:
            processes.suspend(stage.plane.started["etcd"])
            await asyncio.sleep(1.5)
            processes.resume(stage.plane.started["etcd"])
            verdicts.struck.append("etcd stop")


def views_of(seeds: range) -> Verdicts:
    async def play(stage: Scene, campaign: Campaign) -> Verdicts:
        verdicts = Verdicts()
        await asyncio.gather(*(spoilt(stage, campaign, verdicts, seed) for seed in seeds))
        return verdicts

    verdicts = on_a_plane(play)
    print(f"{verdicts.plans} lives: {dict(Counter(verdicts.struck))}")
    return verdicts


def test_a_dozen_broken_views_change_no_outcome() -> None:
    verdicts = views_of(range(12))
    assert verdicts.wrong == []
    assert len(verdicts.struck) > 40


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(100, 400, PIECE))
def test_three_hundred_broken_views_change_no_outcome(first: int) -> None:
    verdicts = views_of(range(first, first + PIECE))
    assert verdicts.wrong == []
    assert verdicts.plans == PIECE
    assert len(verdicts.struck) > 2 * PIECE


@pytest.mark.full
@pytest.mark.timeout(900)
def test_an_apiserver_that_restarts_and_an_etcd_that_stands_still_change_no_outcome() -> None:
    async def play(stage: Scene, campaign: Campaign) -> Verdicts:
        verdicts = Verdicts()
        await shaken(stage, campaign, verdicts, 2)
        return verdicts

    verdicts = on_a_plane(play)
    print(f"{verdicts.plans} lives: {dict(Counter(verdicts.struck))}")
    assert verdicts.wrong == []
    assert set(verdicts.struck) == {"apiserver restart", "etcd stop"}


@pytest.mark.full
def test_a_run_is_led_to_its_end_while_kopf_can_discover_nothing() -> None:
    """After each refusal kopf waits longer, 54 s in all; runs are led by the resync alone."""

    async def main() -> tuple[str, float, int]:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            async with scene(Path(folder)) as stage:
                undiscovered = Undiscovered()
                began = asyncio.get_running_loop().time()
                lived = await stage.live(LIVES["restarts"], meddler=lambda _: undiscovered)
                took = asyncio.get_running_loop().time() - began
                return lived.outcome.run[0], took, undiscovered.refused

    phase, took, refused = asyncio.run(main())
    print(f"{took:.0f} s, {refused} refusals")
    assert phase == "Succeeded"
    assert refused >= 6


def test_the_probe_turns_red_when_nothing_was_seen_for_its_limit_and_green_again() -> None:
    async def main() -> list[bool]:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            async with scene(Path(folder)) as stage:
                silence = Silence()
                async with stage.operators("blind", silence, silence=6.0) as (keeper,):
                    seen = [await keeper.turns(well=True)]
                    silence.fallen.set()
                    seen.append(await keeper.turns(well=False))
                    keeper.kill()  # what a kubelet does about it
                    silence.fallen.clear()
                    silence.over.set()
                    seen.append(await keeper.turns(well=True))
                    assert keeper.starts == 2
                    return seen

    assert asyncio.run(main()) == [True, True, True]
