"""The same client for code that runs in an event loop: each call waits in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from qwenft_cli.access import Object
from qwenft_cli.client import Client, RunFailed, RunLike
from qwenft_cli.losses import LossCurve
from qwenft_cli.snapshot import Snapshot
from qwenft_plan.planner import Planned
from qwenft_plan.progress import Progress

__all__ = ["AsyncClient"]

_PERIOD = 1.0
_END = object()


class AsyncClient:
    """:class:`~qwenft_cli.client.Client` with coroutines; a cancelled wait ends at once."""

    def __init__(self, client: Client | None = None) -> None:
        """Wrap a client; without one, that of the kubeconfig."""
        self._client = client or Client()

    async def plan(self, run: RunLike, *, on: str = "") -> Planned:
        """Return the plan for ``on``, else for the cluster's free nodes."""
        return await asyncio.to_thread(self._client.plan, run, on=on)

    async def submit(self, run: RunLike, *, dry_run: bool = False) -> Snapshot:
        """Apply the run."""
        return await asyncio.to_thread(self._client.submit, run, dry_run=dry_run)

    async def apply(self, run: RunLike, *, dry_run: bool = False) -> Object:
        """Apply the run and return the object as the cluster stored it."""
        return await asyncio.to_thread(self._client.apply, run, dry_run=dry_run)

    async def runs(self) -> tuple[Snapshot, ...]:
        """Return every run of the namespace."""
        return await asyncio.to_thread(self._client.runs)

    async def status(self, name: str) -> Snapshot:
        """Return the run as it is now."""
        return await asyncio.to_thread(self._client.status, name)

    async def watch(self, name: str, *, period: float = _PERIOD) -> AsyncIterator[Snapshot]:
        """Yield the run now and at each change, to its end."""
        last: Snapshot | None = None
        while last is None or not last.finished:
            if last is not None:
                await asyncio.sleep(period)
            snapshot = await self.status(name)
            if snapshot != last:
                yield snapshot
            last = snapshot

    async def wait(self, name: str, *, timeout: float | None = None) -> Snapshot:  # noqa: ASYNC109 - the client's word
        """Return the run once it has succeeded; raises as ``Client.wait`` does."""
        async with asyncio.timeout(timeout):
            async for snapshot in self.watch(name):
                if snapshot.phase == "Failed":
                    raise RunFailed(snapshot)
        return snapshot

    async def logs(
        self, name: str, *, rank: int | None = 0, follow: bool = False
    ) -> AsyncIterator[str]:
        """Yield the lines of the pod that holds a rank."""
        lines: Iterator[str] = await asyncio.to_thread(
            self._client.logs, name, rank=rank, follow=follow
        )
        while (line := await asyncio.to_thread(next, lines, _END)) is not _END:
            yield str(line)

    async def progress(self, name: str) -> tuple[Progress, ...]:
        """Return the reports of the current attempt."""
        return await asyncio.to_thread(self._client.progress, name)

    async def curve(self, name: str) -> LossCurve:
        """Return the loss over the steps; a notebook draws it."""
        return await asyncio.to_thread(self._client.curve, name)

    async def events(self, name: str) -> tuple[Object, ...]:
        """Return the Events about the run, oldest first."""
        return await asyncio.to_thread(self._client.events, name)

    async def suspend(self, name: str) -> Object:
        """Stop the run's pods and keep its place; return the object as the cluster stored it."""
        return await asyncio.to_thread(self._client.suspend, name)

    async def resume(self, name: str) -> Object:
        """Go on with a suspended run; return as :meth:`suspend`."""
        return await asyncio.to_thread(self._client.resume, name)
