"""Operators as processes that are killed at any moment, and started anew as a kubelet does.

The processes are forked from one that has imported everything but the operator's handlers: a start
then takes a third of a second. What runs in them is what ``python -m qwenft_operator`` runs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

__all__ = ["Keeper"]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["kopf.cli", "qwenft_operator.__main__", "qwenft_operator.app", "chaos.nursery"]
)
_RESYNC = 3.0
"""Seconds between two looks at everything: 60 in production, where nobody waits for the test."""


def _live(environment: dict[str, str], log: str, silence: float | None, ahead: float) -> None:
    """Be the operator; ``ahead`` are seconds by which its wall clock is wrong after a while."""
    from kopf.cli import main  # noqa: PLC0415 - in the operator's process only

    from qwenft_operator import app, reconcile  # noqa: PLC0415
    from qwenft_operator.__main__ import arguments  # noqa: PLC0415

    threading.Thread(target=_end_with_the_test, daemon=True).start()
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.environ.clear()
    os.environ.update(environment)
    app._RESYNC = _RESYNC
    app._SILENCE = app._SILENCE if silence is None else silence
    if ahead:
        defaults: Any = reconcile.Reconciler.__init__.__kwdefaults__
        defaults["clock"] = _jumping(ahead)
    main(args=arguments(os.environ)[3:], prog_name="kopf")


def _end_with_the_test() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _jumping(ahead: float) -> Any:
    """Return a clock that jumps by ``ahead`` seconds two seconds after its first reading."""
    born = time.monotonic()
    return lambda: time.time() + (ahead if time.monotonic() - born > 2.0 else 0.0)


class Keeper:
    """Keeps one operator alive; counts how often it had to be started."""

    def __init__(
        self,
        environment: dict[str, str],
        log: Path,
        *,
        silence: float | None = None,
        ahead: float = 0.0,
    ) -> None:
        self.log = log
        self.starts = 0
        self._words = (environment, str(log), silence, ahead)
        self._process: Any = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._start()
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self.kill()
        self._process.join()

    async def _start(self) -> None:
        self._process = _CONTEXT.Process(target=_live, args=self._words, daemon=True)
        await asyncio.to_thread(self._process.start)
        self.starts += 1

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(0.03)
            if not self._process.is_alive():
                self._process.join()
                await self._start()

    async def turns(self, *, well: bool, seconds: float = 60.0) -> bool:
        """Wait until the liveness probe says so; False if it never does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if await asyncio.to_thread(self._is_well) == well:
                return True
            await asyncio.sleep(0.2)
        return False

    def _is_well(self) -> bool:
        try:
            with urllib.request.urlopen(self._words[0]["QWENFT_PROBE_URL"], timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """End it as a power failure does."""
        self._process.kill()
