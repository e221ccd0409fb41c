"""An apiserver of a few lines over loopback HTTP: canned answers, and what was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from qwenft_operator.cluster import ApiCluster

__all__ = ["Answer", "Apiserver", "answering", "ask", "kubeconfig_of", "serve"]

Answer = tuple[int, Any]


@dataclass
class Apiserver:
    """Answers in order, and remembers what it was asked."""

    answers: list[Answer] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        text = await request.text()
        self.asked.append(
            {
                "method": request.method,
                "path": request.path,
                "query": dict(request.query),
                "content": request.headers.get("Content-Type", ""),
                "encoding": request.headers.get("Accept-Encoding", ""),
                "token": request.headers.get("Authorization", ""),
                "text": text,
                "body": json.loads(text) if text else None,
            }
        )
        status, body = self.answers.pop(0)
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, content_type="application/json")


def ask(
    apiserver: Apiserver, call: Callable[[ApiCluster], Awaitable[Any]], *, dead: bool = False
) -> Any:
    """Make one call over loopback HTTP."""

    async def main(port: int) -> Any:
        configuration = Configuration(host=f"http://127.0.0.1:{port}")
        configuration.api_key = {"BearerToken": "Bearer secret"}
        cluster = ApiCluster(ApiClient(configuration))
        try:
            return await call(cluster)
        finally:
            await cluster.close()

    return serve(apiserver, main, dead=dead)


def serve(
    apiserver: Apiserver, client: Callable[[int], Awaitable[Any]], *, dead: bool = False
) -> Any:
    """Return what a client makes of an apiserver on a port of loopback."""

    async def main() -> Any:
        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", apiserver.handle)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        if dead:
            await runner.cleanup()
        try:
            return await client(port)
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def kubeconfig_of(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "abc"}}],
    }


def answering(*answers: Answer) -> Apiserver:
    return Apiserver(answers=list(answers))
