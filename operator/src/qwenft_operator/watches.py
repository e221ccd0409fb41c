"""What kopf asks of the apiserver, and how little of the answers about pods reaches it.

An event of a pod does nothing but wake its run (:mod:`qwenft_operator.main`), and a run of ten
thousand pods has forty thousand of them while it starts. kopf makes a task of each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypedDict, cast

import aiohttp
import msgspec

from qwenft_operator import names
from qwenft_operator.app import tracked

__all__ = ["Answer", "Condensed", "metadata_of_pods"]

_WINDOW = 0.2
"""Seconds in which of the events that say the same the first and the last are enough."""
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"
_TELLING = ("ADDED", "MODIFIED", "DELETED")


class _Metadata(TypedDict, total=False):
    namespace: str
    labels: dict[str, str] | None
    finalizers: list[str] | None


class _Pod(TypedDict):
    metadata: _Metadata


class _Event(TypedDict):
    type: str
    object: _Pod


_EVENT = msgspec.json.Decoder(_Event)


class Condensed:
    """The body of a watch of pods, without events that say what others near them say.

    The first of a window is passed on at once. Those that say the same are held, and the newest
    of them is passed on when the window ends: what came after it would have been missed otherwise.
    Everything else of an aiohttp body is as it was.
    """

    def __init__(self, content: aiohttp.StreamReader, *, window: float = _WINDOW) -> None:
        """``window``: seconds."""
        self._content = content
        self._window = window
        self._ends = 0.0
        self._passed: set[tuple[object, ...]] = set()
        self._held: dict[tuple[object, ...], bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, _size: int) -> AsyncIterator[bytes]:
        """Yield whole lines; what is held comes before the end, and before an error."""
        begun = b""
        try:
            async for data in self._pieces():
                *lines, begun = (begun + data).split(b"\n")
                if passed := self._sifted(lines):
                    yield _text(passed)
        except (aiohttp.ClientError, OSError):
            yield _text(self._released())
            raise
        yield _text(self._released()) + begun

    async def _pieces(self) -> AsyncIterator[bytes]:
        """Yield what arrives, and nothing (of no length) when a window ends."""
        reading = asyncio.ensure_future(self._content.readany())
        try:
            while True:
                await asyncio.wait([reading], timeout=self._left())
                if not reading.done():
                    yield b""
                elif data := reading.result():
                    reading = asyncio.ensure_future(self._content.readany())
                    yield data
                else:
                    return
        finally:
            reading.cancel()

    def _left(self) -> float | None:
        """Return the seconds until something that is held has to be passed on."""
        return max(0.0, self._ends - asyncio.get_running_loop().time()) if self._held else None

    def _sifted(self, lines: list[bytes]) -> list[bytes]:
        """Return what is due now of what is held and of the new lines."""
        now, due = asyncio.get_running_loop().time(), list[bytes]()
        if now >= self._ends:
            self._passed, self._ends = set(self._held), now + self._window
            due = self._released()
        for line in lines:
            sign = _sign(line)
            if sign in self._passed:
                self._held[sign] = line
                continue
            due.append(line)
            if sign is not None:
                self._passed.add(sign)
        return due

    def _released(self) -> list[bytes]:
        """Return the lines that were held, which are not any more."""
        held, self._held = self._held, {}
        return list(held.values())


class Answer(aiohttp.ClientResponse):
    """An answer as kopf should see it."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Receive the headers; the events of pods are condensed from then on."""
        await super().start(connection)
        if _is_of_pods(self.url.path) and "watch" in self.url.query:
            self.content = cast("aiohttp.StreamReader", Condensed(self.content))
        return self

    async def json(self, **kwargs: Any) -> Any:
        """Return the document.

        An empty list is a list: of metadata the apiserver sends null, and kopf dies. A list of pods
        has one of each run and state: it wakes the run, and ten thousand would do no more.
        """
        found = await super().json(**kwargs)
        if isinstance(found, dict) and found.get("items", found) is None:
            found["items"] = []
        if isinstance(found, dict) and "items" in found and _is_of_pods(self.url.path):
            telling = {_told_by(pod): pod for pod in found["items"]}
            found["items"] = list(telling.values())
        return found


async def metadata_of_pods(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Ask for no more than the metadata of pods: it tells whose they are, and that is all we use.

    A tenth of what would be sent, read and kept otherwise.
    """
    if _is_of_pods(request.url.path):
        kind = "" if "watch" in request.url.query else "List"
        request.headers["Accept"] = _METADATA.format(kind)
    return await handler(request)


def _is_of_pods(path: str) -> bool:
    return path.endswith("/pods")


def _told_by(pod: Mapping[str, Any], *, gone: bool = False) -> tuple[object, ...]:
    """Return all that :meth:`qwenft_operator.app.App.pod_changed` makes of a pod."""
    metadata = pod["metadata"]
    run = (metadata.get("labels") or {}).get(names.LABEL_RUN)
    return metadata.get("namespace"), run, tracked(metadata), gone


def _text(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _sign(line: bytes) -> tuple[object, ...] | None:
    """Return what an event says, None for what is no event of a pod: bookmarks, errors."""
    try:
        event = _EVENT.decode(line)
    except msgspec.MsgspecError:
        return None
    if event["type"] not in _TELLING:
        return None
    return _told_by(event["object"], gone=event["type"] == "DELETED")
