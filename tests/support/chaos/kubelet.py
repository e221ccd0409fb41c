"""A stand-in for scheduler and kubelets: it binds pods, lets them run, and says how they end.

It keeps to what the real ones do and the Job controller relies on: a pod is bound once, its end is
told before it is gone, and a pod that is asked to go ends by itself (exit code 64) and is then
deleted without grace.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from chaos.api import AdminApi
from qwenft_operator import names

__all__ = ["Ending", "Kubelet", "Program"]

Body = dict[str, Any]
_SAVING = 0.3
"""Seconds that a pod takes to end when it is asked to."""
_OVER = ("Succeeded", "Failed")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a pod's container ends by itself."""

    seconds: float
    code: int
    message: Body | None = None


Program = Callable[[int, int], Ending | None]
"""(attempt, node rank) → its end, None while it runs until it is asked to go."""


@dataclass(kw_only=True)
class _Pod:
    asked_to_go: asyncio.Event = field(default_factory=asyncio.Event)
    life: asyncio.Task[None] | None = None


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Kubelet:
    """All nodes of the plane."""

    def __init__(self, api: AdminApi, nodes: tuple[str, ...]) -> None:
        self._api = api
        self._nodes = nodes
        self._pods: dict[str, _Pod] = {}
        self.programs: dict[str, Program] = {}
        """By namespace."""

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async for kind, body in self._api.follow("Pod"):
                self._hear(kind, body)
        finally:
            for pod in self._pods.values():
                if pod.life is not None:
                    pod.life.cancel()

    def _hear(self, kind: str, body: Body) -> None:
        if kind == "LISTED":
            there = {item["metadata"]["uid"] for item in body["items"] or ()}
            for uid in set(self._pods) - there:
                self._forget(uid)
            for item in body["items"] or ():
                self._hear("MODIFIED", item)
        elif kind == "DELETED":
            self._forget(body["metadata"]["uid"])
        elif body["metadata"]["namespace"] in self.programs:
            self._see(body)

    def _forget(self, uid: str) -> None:
        pod = self._pods.pop(uid, None)
        if pod is not None and pod.life is not None:
            pod.life.cancel()

    def _see(self, body: Body) -> None:
        pod = self._pods.setdefault(body["metadata"]["uid"], _Pod())
        if "deletionTimestamp" in body["metadata"]:
            pod.asked_to_go.set()
        if pod.life is None:
            pod.life = asyncio.create_task(self._live(body, pod.asked_to_go))

    async def _live(self, body: Body, asked_to_go: asyncio.Event) -> None:
        metadata, labels = body["metadata"], body["metadata"]["labels"]
        namespace, name = metadata["namespace"], metadata["name"]
        attempt, rank = int(labels[names.LABEL_ATTEMPT]), int(labels[names.LABEL_INDEX])
        if body["status"].get("phase") not in _OVER:
            await self._bind(namespace, name, rank)
            await self._tell(namespace, name, _running())
            ending = self.programs[namespace](attempt, rank)
            with suppress(TimeoutError):
                await asyncio.wait_for(asked_to_go.wait(), ending.seconds if ending else None)
            await self._tell(namespace, name, _ended(await _end(ending, asked_to_go)))
        await asked_to_go.wait()
        await self._api.delete("Pod", namespace, name, gracePeriodSeconds=0)

    async def _bind(self, namespace: str, name: str, rank: int) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": self._nodes[rank % len(self._nodes)]}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                   "target": target}  # fmt: skip
        await self._api.call("POST", self._api.path("Pod", namespace, name, "binding"), binding)

    async def _tell(self, namespace: str, name: str, status: Body) -> None:
        await self._api.patch("Pod", namespace, name, {"status": status}, part="status")


async def _end(ending: Ending | None, asked_to_go: asyncio.Event) -> Ending:
    if not asked_to_go.is_set() and ending is not None:
        return ending
    await asyncio.sleep(_SAVING)
    message = {"exitCode": 64, "reason": "Preempted"}
    return Ending(seconds=0, code=64, message=message)


def _conditions(*, ready: bool) -> list[Body]:
    word = "True" if ready else "False"
    return [{"type": kind, "status": word, "lastTransitionTime": _now()}
            for kind in ("Ready", "ContainersReady")]  # fmt: skip


def _running() -> Body:
    state = {"running": {"startedAt": _now()}}
    return {"phase": "Running", "startTime": _now(), "conditions": _conditions(ready=True),
            "containerStatuses": [_container(state, ready=True)]}  # fmt: skip


def _ended(ending: Ending) -> Body:
    terminated = {"exitCode": ending.code, "reason": "Error" if ending.code else "Completed",
                  "message": "" if ending.message is None else json.dumps(ending.message),
                  "startedAt": _now(), "finishedAt": _now()}  # fmt: skip
    return {"phase": "Failed" if ending.code else "Succeeded",
            "conditions": _conditions(ready=False),
            "containerStatuses": [_container({"terminated": terminated}, ready=False)]}  # fmt: skip


def _container(state: Body, *, ready: bool) -> Body:
    return {"name": names.CONTAINER, "image": "trainer", "imageID": "", "ready": ready,
            "restartCount": 0, "state": state}  # fmt: skip
