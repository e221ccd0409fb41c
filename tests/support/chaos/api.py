"""An administrator's client of the plane's apiserver that waits out its restarts."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from bare.plane import Plane

__all__ = ["KINDS", "AdminApi", "context_of"]

Body = dict[str, Any]

KINDS = {
    "Run": ("/apis/qwenft.dev/v1alpha1", "qwenfinetunes"),
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": ("/api/v1", "pods"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Service": ("/api/v1", "services"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "Event": ("/api/v1", "events"),
    "Claim": ("/api/v1", "persistentvolumeclaims"),
    "Account": ("/api/v1", "serviceaccounts"),
    "Namespace": ("/api/v1", "namespaces"),
    "Node": ("/api/v1", "nodes"),
}
_NO_OBJECT = (404, 409)
_PATIENCE = 90.0
"""Seconds for which an apiserver may be away."""
_LINE = 2**22


def context_of(plane: Plane, client: str) -> ssl.SSLContext:
    """Return the TLS context of one of the plane's clients."""
    folder = plane.folder / "certificates"
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / f"{client}.crt", folder / f"{client}.key")
    return context


class AdminApi:
    """Reads and writes as administrator."""

    def __init__(self, plane: Plane) -> None:
        connector = aiohttp.TCPConnector(ssl=context_of(plane, "admin"), limit=64)
        self._url = plane.url
        self._session = aiohttp.ClientSession(connector=connector, read_bufsize=_LINE)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def call(
        self, method: str, path: str, body: object = None, *, content: str = "application/json"
    ) -> Body | None:
        """Return the answer's JSON, None where the object is not there or there already."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return await self._once(method, path, body, content)
            except (aiohttp.ClientError, TimeoutError, OSError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def _once(self, method: str, path: str, body: object, content: str) -> Body | None:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content}
        timeout = aiohttp.ClientTimeout(total=20)
        url = self._url + path
        async with self._session.request(
            method, url, data=data, headers=headers, timeout=timeout
        ) as answer:
            if answer.status in _NO_OBJECT:
                return None
            if answer.status >= 500 or answer.status == 429:
                raise aiohttp.ClientError(f"{answer.status}")
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
            found: Body = await answer.json()
            return found

    @staticmethod
    def path(kind: str, namespace: str = "", name: str = "", part: str = "") -> str:
        """Return the path of a kind's collection, of an object, or of a part of one."""
        prefix, plural = KINDS[kind]
        middle = f"/namespaces/{namespace}" if namespace else ""
        tail = "".join(f"/{word}" for word in (name, part) if word)
        return f"{prefix}{middle}/{plural}{tail}"

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """Return one object."""
        return await self.call("GET", self.path(kind, namespace, name))

    async def list(self, kind: str, namespace: str = "") -> list[Body]:
        """Return the objects of a kind."""
        found = await self.call("GET", self.path(kind, namespace))
        return list((found or {}).get("items") or ())

    async def create(self, kind: str, body: Body) -> None:
        """Create an object; one that is there is fine."""
        namespace = body["metadata"].get("namespace", "")
        await self.call("POST", self.path(kind, namespace), body)

    async def patch(self, kind: str, namespace: str, name: str, body: Body, part: str = "") -> None:
        """Merge a patch into an object."""
        content = "application/merge-patch+json"
        await self.call("PATCH", self.path(kind, namespace, name, part), body, content=content)

    async def delete(self, kind: str, namespace: str, name: str, **options: Any) -> None:
        """Delete an object."""
        await self.call("DELETE", self.path(kind, namespace, name), options or None)

    async def follow(self, kind: str) -> AsyncIterator[tuple[str, Body]]:
        """Yield ``("LISTED", list)`` and then every event, for ever and through every restart."""
        while True:
            listing = await self.call("GET", self.path(kind))
            if listing is None:
                raise RuntimeError(f"{kind} is not served")
            yield "LISTED", listing
            version = listing["metadata"]["resourceVersion"]
            try:
                async for event in self._watch(kind, version):
                    yield event
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                await asyncio.sleep(0.1)

    async def _watch(self, kind: str, version: str) -> AsyncIterator[tuple[str, Body]]:
        url = f"{self._url}{self.path(kind)}?watch=true&resourceVersion={version}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with self._session.get(url, timeout=timeout) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield event["type"], event["object"]
