"""A work queue of keys: a key waits in it at most once and is worked on by one worker at a time.

Failures come back after an exponential, jittered delay. The queue is the operator's only clockwork;
losing it loses nothing, since every key is added again by the next resync.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["WorkQueue"]

Key = TypeVar("Key")

_FIRST_DELAY, _LONGEST_DELAY = 0.2, 60.0

logger = logging.getLogger(__name__)


class WorkQueue(Generic[Key]):
    """Calls ``work(key)`` for every key added; ``work`` returns the seconds to its next look."""

    def __init__(
        self,
        work: Callable[[Key], Awaitable[float | None]],
        *,
        jitter: Callable[[], float] = random.random,
        passing: tuple[type[Exception], ...] = (),
    ) -> None:
        """Set up the queue; ``passing`` errors are expected at times and leave no traceback."""
        self._work = work
        self._jitter = jitter
        self._passing = passing
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        """In ``_ready``, not yet taken."""
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        """Added while being worked on: to be looked at once more."""
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}

    def add(self, key: Key) -> None:
        """Have the key looked at soon."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Have the key looked at after ``seconds``, or earlier if something happens before."""
        if key in self._waiting or key in self._again:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self.add, key)

    async def run(self, workers: int) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._active.add(key)
            try:
                delay = await self._attempt(key)
            finally:
                self._active.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            elif delay is not None:
                self.add_after(key, delay)

    async def _attempt(self, key: Key) -> float | None:
        try:
            delay = await self._work(key)
        except Exception as error:  # one key's trouble must not end the worker
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(failures - 1, 20))
            pause *= 0.5 + 0.5 * self._jitter()
            passing = isinstance(error, self._passing)
            told = str(error) if passing else "failed"
            logger.warning(
                "%s, look %d in vain, again in %.1f s: %s",
                key, failures, pause, told, exc_info=not passing,
            )  # fmt: skip
            return pause
        self._failures.pop(key, None)
        return delay
