"""Many lives side by side, each compared with the undisturbed one."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.lives import LIVES, Life
from chaos.meddlers import Executioner
from chaos.scene import Lived, Scene, scene

__all__ = ["Campaign", "Verdicts", "on_a_plane"]

_AT_ONCE = 4 * (os.cpu_count() or 1)
"""Lives mostly wait: for pods, for a resync, for an answer that does not come."""


@dataclass(kw_only=True)
class Verdicts:
    """What came of a campaign."""

    plans: int = 0
    struck: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def judge(self, what: str, found: Lived | TimeoutError, expected: Lived) -> None:
        """Compare one life with the undisturbed one."""
        self.plans += 1
        if isinstance(found, TimeoutError):
            self.wrong.append(f"{what}: {found}")
        elif not found.outcome.same(expected.outcome):
            self.wrong.append(f"{what}: {found.outcome} instead of {expected.outcome}")
        elif found.tracebacks:
            self.wrong.append(f"{what}: {found.tracebacks} tracebacks\n{found.log[-3000:]}")


class Campaign:
    """Leads lives on one scene, some at a time."""

    def __init__(self, stage: Scene) -> None:
        self._scene = stage
        self._places = asyncio.Semaphore(_AT_ONCE)
        self.undisturbed: dict[str, Lived] = {}
        self.writes: dict[str, list[str]] = {}

    async def prepare(self, names: Iterable[str] = LIVES) -> None:
        """Lead every life undisturbed."""
        await asyncio.gather(*(self._undisturbed(name) for name in names))

    async def _undisturbed(self, name: str) -> None:
        watchers: list[Executioner] = []

        def count(kill: Callable[[], None]) -> Executioner:
            watchers.append(Executioner(kill))
            return watchers[-1]

        self.undisturbed[name] = await self._scene.live(LIVES[name], meddler=count)
        self.writes[name] = watchers[-1].writes

    async def lead(
        self, verdicts: Verdicts, what: str, name: str, live: Callable[[Life], Awaitable[Lived]]
    ) -> None:
        """Lead one disturbed life and judge it."""
        async with self._places:
            try:
                found: Lived | TimeoutError = await live(LIVES[name])
            except TimeoutError as error:
                found = error
        verdicts.judge(f"{name}, {what}", found, self.undisturbed[name])

    async def crash(self, verdicts: Verdicts, name: str, at: range) -> None:
        """Lead a life in which the operator dies around the writes of these ordinals."""
        made: list[Executioner] = []

        def strike(kill: Callable[[], None]) -> Executioner:
            made.append(Executioner(kill, at))
            return made[-1]

        await self.lead(verdicts, f"killed at {at}", name,
                        lambda life: self._scene.live(life, meddler=strike))  # fmt: skip
        verdicts.struck += [f"{name}: {what}" for what in made[-1].struck]


def on_a_plane(play: Callable[[Scene, Campaign], Awaitable[Verdicts]]) -> Verdicts:
    """Bring a plane up, lead the undisturbed lives, and play."""

    async def main() -> Verdicts:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            async with scene(Path(folder)) as stage:
                campaign = Campaign(stage)
                await campaign.prepare()
                return await play(stage, campaign)

    return asyncio.run(main())
