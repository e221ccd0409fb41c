"""The door of the progress endpoint: who waits in it, how many, and for how long.

Whoever reaches the port may be hostile: a client that never finishes its request, thousands of
connections, thousands of made-up tokens that each cost the apiserver a question. None of it may
take from the operator what it needs for its own work: descriptors, memory, the apiserver's time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

__all__ = ["Busy", "Door", "Gate", "Pace"]

_KEEPALIVE_SECONDS = 15.0


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record tells of the operator's own trouble, not of a client's nonsense."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)


logger = logging.getLogger(__name__)
logger.addFilter(_is_ours)


class Busy(Exception):  # noqa: N818 - passes by itself
    """Too many ask at once: come again later."""


class Door:
    """Connections to a server: at most ``most``, ``most_of_one`` of one address, each for a time.

    A connection is cut after ``seconds`` whatever it does: a report takes milliseconds, and one
    that was cut is followed by the next.
    """

    def __init__(self, *, most: int = 1024, most_of_one: int = 64, seconds: float = 30.0) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._seconds = seconds
        self._guests: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return self._guests.total()

    def factory(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """Return what makes the protocol of each new connection to ``server``."""
        return lambda: _Guest(self, server)

    def enter(self, transport: asyncio.BaseTransport) -> _Stay | None:
        """Let a connection in for a while; None where there is no room for it."""
        address = _address(transport)
        if self.open >= self._most or self._guests[address] >= self._most_of_one:
            return None
        self._guests[address] += 1
        loop = asyncio.get_running_loop()
        abort: Callable[[], None] = getattr(transport, "abort", transport.close)
        return _Stay(address=address, timer=loop.call_later(self._seconds, abort))

    def leave(self, stay: _Stay) -> None:
        """Forget a connection that is closed."""
        stay.timer.cancel()
        self._guests[stay.address] -= 1
        if self._guests[stay.address] <= 0:
            del self._guests[stay.address]


class _Stay:
    """One connection's place in the door."""

    __slots__ = ("address", "timer")

    def __init__(self, *, address: str, timer: asyncio.TimerHandle) -> None:
        self.address = address
        self.timer = timer


class _Guest(web.RequestHandler):
    """aiohttp's own protocol of one connection, let in by the door."""

    __slots__ = ("_door", "_stay")

    def __init__(self, door: Door, server: web.Server) -> None:
        options: dict[str, Any] = {
            "access_log": None,
            "logger": logger,
            "keepalive_timeout": _KEEPALIVE_SECONDS,
            "auto_decompress": False,  # nobody packs a report; what unfolds may be anything
        }
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._door = door
        self._stay: _Stay | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._stay = self._door.enter(transport)
        if self._stay is None and isinstance(transport, asyncio.Transport):
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._stay is not None:
            self._door.leave(self._stay)
            self._stay = None
        super().connection_lost(exc)


def _address(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


class Gate:
    """Bounds what is asked at once: ``most`` in all, ``most_of_one`` on behalf of one address."""

    def __init__(self, *, most: int = 32, most_of_one: int = 4) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._asking: Counter[str] = Counter()

    @asynccontextmanager
    async def asked_by(self, address: str) -> AsyncIterator[None]:
        """Take a place while the question is under way; raises :class:`Busy` without one."""
        if self._asking.total() >= self._most or self._asking[address] >= self._most_of_one:
            raise Busy
        self._asking[address] += 1
        try:
            yield
        finally:
            self._asking[address] -= 1
            if self._asking[address] <= 0:
                del self._asking[address]


class Pace:
    """Calls ``act(key)`` at once and then at most once in ``seconds``, however often it is told.

    The last word is never lost: what was told within the pause is acted on at its end.
    """

    def __init__(self, act: Callable[[Any], None], *, seconds: float = 1.0) -> None:
        self._act = act
        self._seconds = seconds
        self._pausing: dict[Any, asyncio.TimerHandle] = {}
        self._again: set[Any] = set()

    def tell(self, key: Any) -> None:
        """Have ``key`` acted on now, or at the end of its pause."""
        if key in self._pausing:
            self._again.add(key)
            return
        self._act(key)
        loop = asyncio.get_running_loop()
        self._pausing[key] = loop.call_later(self._seconds, self._rested, key)

    def stop(self) -> None:
        """Forget what is waiting."""
        for timer in self._pausing.values():
            timer.cancel()
        self._pausing.clear()
        self._again.clear()

    def _rested(self, key: Any) -> None:
        del self._pausing[key]
        if key in self._again:
            self._again.discard(key)
            self.tell(key)
