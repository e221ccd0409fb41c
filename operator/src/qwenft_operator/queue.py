"""A work queue of keys: a key waits in it at most once and is worked on by one worker at a time.

Failures come back after an exponential, jittered delay. The queue is the operator's only clockwork;
losing it loses nothing, since every key is added again by the next resync.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["QueueWatcher", "WorkQueue"]

Key = TypeVar("Key")

_FIRST_DELAY, _LONGEST_DELAY = 0.2, 60.0
_REST, _SHORTEST_REST, _LONGEST_REST = 4.0, 0.1, 2.0
"""A key rests for so many times what its look took before it is looked at again, within limits.

A run of a thousand pods is told of thousands of changes while they come up, and looking at it takes
a while: without a rest nothing else would be done.
"""

logger = logging.getLogger(__name__)


class QueueWatcher(Protocol):
    """Told of what the queue does; all durations in seconds."""

    def added(self, depth: int) -> None:
        """Take note of a key that was added; ``depth`` keys wait now."""

    def taken(self, depth: int, waited: float) -> None:
        """Take note of a key that a worker took."""

    def done(self, seconds: float, delay: float | None, *, failed: bool) -> None:
        """Take note of a look that ended; the next is due after ``delay``, if any."""


class WorkQueue(Generic[Key]):
    """Calls ``work(key)`` for every key added; ``work`` returns the seconds to its next look."""

    def __init__(
        self,
        work: Callable[[Key], Awaitable[float | None]],
        *,
        jitter: Callable[[], float] = random.random,
        passing: tuple[type[Exception], ...] = (),
        watcher: QueueWatcher | None = None,
    ) -> None:
        """Set up the queue; ``passing`` errors are expected at times and leave no traceback."""
        self._work = work
        self._jitter = jitter
        self._passing = passing
        self._watcher = watcher
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: dict[Key, float] = {}
        """In ``_ready``, not yet taken, and since when by the monotonic clock."""
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        """Added while being worked on: to be looked at once more."""
        self._resting: set[Key] = set()
        """To be looked at once more, at the end of a rest."""
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}

    def add(self, key: Key) -> None:
        """Have the key looked at soon."""
        if key in self._resting:
            return
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._ready.put_nowait(key)
            if self._watcher is not None:
                self._watcher.added(len(self._waiting))

    def add_after(self, key: Key, seconds: float) -> None:
        """Have the key looked at after ``seconds``, or earlier if something happens before."""
        if key in self._waiting or key in self._again or key in self._resting:
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
            began = time.monotonic()
            waited = began - self._waiting.pop(key, began)
            self._active.add(key)
            delay = None
            if self._watcher is not None:
                self._watcher.taken(len(self._waiting), waited)
            try:
                delay = await self._attempt(key)
            finally:
                self._active.discard(key)
                took = time.monotonic() - began
                if self._watcher is not None:
                    self._watcher.done(took, delay, failed=key in self._failures)
            if key in self._again:
                self._again.discard(key)
                self._rest(key, took)
            elif delay is not None:
                self.add_after(key, delay)

    def _rest(self, key: Key, took: float) -> None:
        """Add the key again, after a rest if its look took long."""
        seconds = min(_LONGEST_REST, _REST * took)
        if seconds < _SHORTEST_REST:
            self.add(key)
            return
        self._resting.add(key)
        asyncio.get_running_loop().call_later(seconds, self._rested, key)

    def _rested(self, key: Key) -> None:
        self._resting.discard(key)
        self.add(key)

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
