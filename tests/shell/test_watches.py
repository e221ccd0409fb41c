"""Of many events of pods that say the same, kopf gets the first and the newest.

What must never be: that the newest event of a run is lost, whatever ends the watch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_operator import names
from qwenft_operator.watches import Answer, Condensed

TRACKED = "batch.kubernetes.io/job-tracking"
LONG = 60.0
"""A window that no test lives to see the end of."""
SHORT = 0.01


def event(
    run: str, version: int, kind: str = "MODIFIED", *, namespace: str = "team", ended: bool = False
) -> dict[str, Any]:
    metadata = {
        "name": f"{run}-pod", "namespace": namespace, "resourceVersion": str(version),
        "labels": {names.LABEL_RUN: run}, "finalizers": [] if ended else [TRACKED],
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    }  # fmt: skip
    return {"type": kind, "object": {"kind": "PartialObjectMetadata", "metadata": metadata}}


def bookmark(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


class Body:
    """A body that arrives in the given pieces; between them a moment passes, or an error comes."""

    def __init__(self, *pieces: bytes | float | Exception) -> None:
        self._pieces = list(pieces)
        self.total_bytes = 17

    async def readany(self) -> bytes:
        """Return the next piece, nothing at the end."""
        while self._pieces:
            piece = self._pieces.pop(0)
            if isinstance(piece, bytes):
                return piece
            if isinstance(piece, Exception):
                raise piece
            await asyncio.sleep(piece)
        return b""


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in events)


async def _read(stream: AsyncIterator[bytes]) -> tuple[list[dict[str, Any]], Exception | None]:
    text, error = b"", None
    try:
        async for piece in stream:
            text += piece
    except aiohttp.ClientError as raised:
        error = raised
    return [json.loads(line) for line in text.splitlines()], error


def through(*pieces: bytes | float | Exception, window: float = LONG) -> list[dict[str, Any]]:
    """Return what is left of the events of a watch."""
    return asyncio.run(_read(Condensed(Body(*pieces), window=window).iter_chunked(1)))[0]  # type: ignore[arg-type]


def versions(events: list[dict[str, Any]]) -> list[int]:
    return [int(each["object"]["metadata"]["resourceVersion"]) for each in events]


def test_of_a_thousand_pods_that_come_up_the_first_and_the_newest_are_told() -> None:
    flood = [event("wide", version) for version in range(1000)]
    assert through(lines(*flood)) == [flood[0], flood[-1]]


def test_a_single_event_is_passed_on_as_it_is_and_at_once() -> None:
    async def scenario() -> list[bytes]:
        body = Body(lines(event("a", 1)), LONG)
        stream = Condensed(body, window=LONG).iter_chunked(1)  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            return [await anext(stream)]

    assert asyncio.run(scenario()) == [lines(event("a", 1))]


@pytest.mark.parametrize(
    "other",
    [
        event("b", 2),
        event("a", 2, namespace="other"),
        event("a", 2, ended=True),
        event("a", 2, "DELETED"),
    ],
    ids=["another run", "another namespace", "a pod that has ended", "a pod that is gone"],
)
def test_what_says_something_else_does_not_wait(other: dict[str, Any]) -> None:
    first = event("a", 1)
    assert through(lines(first, other, event("a", 3))) == [first, other, event("a", 3)]
    assert through(lines(first, event("a", 3), other)) == [first, other, event("a", 3)]


def test_bookmarks_and_errors_do_not_wait() -> None:
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410}}
    told = [event("a", 1), bookmark(2), gone]
    assert through(lines(*told)) == told


def test_an_event_that_nobody_can_read_is_left_to_kopf() -> None:
    odd = [{"type": "MODIFIED", "object": {"metadata": {"labels": [1]}}}, {"type": "MODIFIED"}]
    assert through(lines(*odd, *odd)) == [*odd, *odd]


def test_what_is_held_is_told_when_the_window_ends_without_another_event() -> None:
    async def scenario() -> list[int]:
        body = Body(lines(event("a", 1), event("a", 2), event("a", 3)), LONG)
        stream = Condensed(body, window=SHORT).iter_chunked(1)  # type: ignore[arg-type]
        told: list[int] = []
        async with asyncio.timeout(5):
            while 3 not in told:
                told += versions([json.loads(line) for line in (await anext(stream)).splitlines()])
        await stream.aclose()  # type: ignore[attr-defined]
        return told

    assert asyncio.run(scenario()) == [1, 3]


def test_after_a_window_an_event_is_told_at_once_again() -> None:
    told = through(lines(event("a", 1)), 5 * SHORT, lines(event("a", 2)), window=SHORT)
    assert versions(told) == [1, 2]


def test_what_was_told_late_counts_for_the_next_window() -> None:
    """Else a flood would be told twice a window."""
    flood = lines(event("a", 1), event("a", 2))
    told = through(flood, 5 * SHORT, lines(event("a", 3), event("a", 4)), window=4 * SHORT)
    assert versions(told) == [1, 2, 4]


def test_an_event_may_arrive_in_pieces() -> None:
    text = lines(event("a", 1), event("b", 2))
    assert versions(through(*(text[at : at + 7] for at in range(0, len(text), 7)))) == [1, 2]


def test_a_cut_event_stays_cut() -> None:
    body = Body(lines(event("a", 1)), b'{"type": "MODI')

    async def scenario() -> list[bytes]:
        return [each async for each in Condensed(body, window=LONG).iter_chunked(1)]  # type: ignore[arg-type]

    assert asyncio.run(scenario()) == [lines(event("a", 1)), b'{"type": "MODI']


def test_a_connection_that_breaks_loses_nothing_that_had_come() -> None:
    broken = aiohttp.ClientPayloadError("cut")
    body = Body(lines(event("a", 1), event("a", 2)), broken)
    found, error = asyncio.run(_read(Condensed(body, window=LONG).iter_chunked(1)))  # type: ignore[arg-type]
    assert versions(found) == [1, 2]
    assert error is broken


def test_the_rest_of_the_body_is_as_it_was() -> None:
    assert Condensed(Body()).total_bytes == 17  # type: ignore[arg-type]


EVENTS = st.tuples(
    st.sampled_from("ab"), st.sampled_from(["ADDED", "MODIFIED", "DELETED"]), st.booleans()
)


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=40), st.lists(st.integers(1, 400), max_size=6))
def test_of_every_kind_of_event_the_newest_is_always_told(
    drawn: list[tuple[str, str, bool]], cuts: list[int]
) -> None:
    events = [event(run, at, kind, ended=over) for at, (run, kind, over) in enumerate(drawn)]
    text, pieces = lines(*events), []
    for cut in cuts:
        pieces.append(text[:cut])
        text = text[cut:]
    told = through(*[piece for piece in [*pieces, text] if piece])

    def sign(each: dict[str, Any]) -> tuple[Any, ...]:
        metadata = each["object"]["metadata"]
        gone = each["type"] == "DELETED"
        return metadata["labels"][names.LABEL_RUN], gone, not metadata["finalizers"]

    for kind in {sign(each) for each in events}:
        sent = [each for each in events if sign(each) == kind]
        shown = [each for each in told if sign(each) == kind]
        assert shown == (sent if len(sent) == 1 else [sent[0], sent[-1]])


async def _watched(path: str, flood: bytes) -> int:
    """Return how many events arrive of a watch under the path, over loopback HTTP."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(flood)
        return response

    return await _asked(path, answer)


async def _asked(path: str, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> int:
    application = web.Application()
    application.router.add_get("/{rest:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with (
        aiohttp.ClientSession(response_class=Answer) as session,
        session.get(server + path) as response,
    ):
        text = b"".join([piece async for piece in response.content.iter_chunked(2**20)])
    await runner.cleanup()
    return text.count(b"\n")


@pytest.mark.parametrize(
    ("path", "arrive"),
    [
        ("/api/v1/pods?watch=true&resourceVersion=1", 2),
        ("/api/v1/namespaces/team/pods?watch=true", 2),
        ("/api/v1/pods?limit=500", 50),
        ("/apis/batch/v1/jobs?watch=true", 50),
        ("/api/v1/nodes?watch=true", 50),
    ],
)
def test_only_watches_of_pods_are_condensed(path: str, arrive: int) -> None:
    flood = lines(*(event("a", version) for version in range(50)))
    assert asyncio.run(_watched(path, flood)) == arrive
