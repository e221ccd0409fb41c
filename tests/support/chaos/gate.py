"""A gate between one operator and the apiserver, at which answers can be spoilt.

The operator speaks plain HTTP to a port of loopback; the gate speaks TLS to the apiserver with the
operator's own certificate, so that its rights stay what they are. What is done to an exchange is
decided by a :class:`Meddler`.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import aiohttp
from aiohttp import web

__all__ = ["Answer", "Call", "Cut", "Gate", "Meddler", "refusal"]

_LINE = 2**22
_WRITES = ("POST", "PUT", "PATCH", "DELETE")
_HOP = ("content-length", "transfer-encoding", "connection", "date", "server")


class Cut(Exception):  # noqa: N818 - the connection's end
    """Cut the connection to the operator here."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request of the operator."""

    method: str
    target: str
    """Path and query."""
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path alone."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters."""
        return dict(parse_qsl(urlsplit(self.target).query))

    @property
    def watches(self) -> bool:
        """Whether events are asked for."""
        return self.query.get("watch") == "true"

    @property
    def writes(self) -> bool:
        """Whether an object may be changed by it; asking about a token changes none."""
        return self.method in _WRITES and "authentication.k8s.io" not in self.path

    @property
    def told(self) -> str:
        """What it writes, for people: ``PATCH jobs/tiny-1``, ``PUT status Starting``."""
        words = self.path.split("/")
        if words[-1] == "status":
            return f"{self.method} status {json.loads(self.body)['status'].get('phase')}"
        return f"{self.method} {'/'.join(words[-2:] if self.method != 'POST' else words[-1:])}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the operator is told."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    whole: bool = True
    """False: the connection is cut in the middle of the body."""


def refusal(status: int, reason: str, **headers: str) -> Answer:
    """Return a refusal as the apiserver words it."""
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": f"{reason} (injected)", "reason": reason, "code": status}  # fmt: skip
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Answer(status=status, body=json.dumps(body).encode(),
                  headers={"Content-Type": "application/json"} | named)  # fmt: skip


class Meddler:
    """Lets everything through; others spoil something. All raise :class:`Cut` to end it there."""

    async def before(self, call: Call) -> Answer | None:
        """Return an answer that is given in place of the apiserver's."""
        del call
        return None

    async def after(self, call: Call, answer: Answer) -> Answer:
        """Return what the operator is told of the apiserver's answer."""
        del call
        return answer

    async def event(self, call: Call, line: bytes) -> list[bytes]:
        """Return what the operator is told of one event of a watch."""
        del call
        return [line]


class Gate:
    """One operator's way to the apiserver."""

    def __init__(self, session: aiohttp.ClientSession, upstream: str, meddler: Meddler) -> None:
        self.meddler = meddler
        self._session = session
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._protocol = web.Server(self._handle, access_log=None)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._protocol.shutdown(1.0)

    @property
    def url(self) -> str:
        """Where the operator finds it."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = Call(method=request.method, target=request.path_qs, body=await request.read())
        try:
            made_up = await self.meddler.before(call)
            if made_up is None and call.watches:
                return await self._stream(request, call)
            answer = made_up or await self.meddler.after(call, await self._forward(request, call))
            return await self._give(request, answer)
        except (Cut, aiohttp.ClientError, TimeoutError, OSError):
            return _cut(request)

    def _asked(self, request: web.BaseRequest, call: Call, *, total: float | None) -> Any:
        wanted = ("Accept", "Content-Type", "User-Agent")
        headers = {key: request.headers[key] for key in wanted if key in request.headers}
        headers["Accept-Encoding"] = "identity"
        return self._session.request(
            call.method, self._upstream + call.target, data=call.body or None, headers=headers,
            timeout=aiohttp.ClientTimeout(total=total, sock_connect=5),
        )  # fmt: skip

    async def _forward(self, request: web.BaseRequest, call: Call) -> Answer:
        async with self._asked(request, call, total=60) as response:
            headers = {k: v for k, v in response.headers.items() if k.lower() not in _HOP}
            return Answer(status=response.status, body=await response.read(), headers=headers)

    async def _give(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        if answer.whole:
            return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) // 2])
        raise Cut

    async def _stream(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        async with self._asked(request, call, total=None) as upstream:
            if upstream.status != 200:
                return web.Response(status=upstream.status, body=await upstream.read(),
                                    content_type="application/json")  # fmt: skip
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            async for line in upstream.content:
                for told in await self.meddler.event(call, line):
                    await response.write(told)
            return response


def _cut(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)
