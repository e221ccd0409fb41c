"""One control plane on which many lives are led side by side, each in a namespace of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bare import nodes
from bare.plane import Plane, plane
from chaos.api import AdminApi, context_of
from chaos.gate import Gate, Meddler
from chaos.kubelet import Kubelet
from chaos.lives import RUN, Life, User
from chaos.nursery import Keeper
from chaos.outcome import Outcome, settled
from embedded import binaries, layout, versions
from embedded.stages import direct_environment
from loopback import free_ports

__all__ = ["Lived", "Scene", "scene"]

_NODES = tuple(f"node-{index}" for index in range(4))


@dataclass(frozen=True, kw_only=True)
class Lived:
    """What came of a life."""

    outcome: Outcome
    starts: int
    """How often an operator was started."""
    log: str

    @property
    def tracebacks(self) -> int:
        """Errors of the operator's own that it did not expect."""
        return len(re.findall(r"look \d+ in vain.*: failed\nTraceback", self.log))


@dataclass(kw_only=True)
class Scene:
    """A plane with its stand-ins."""

    plane: Plane
    api: AdminApi
    kubelet: Kubelet
    session: aiohttp.ClientSession
    _numbers: Any = field(default_factory=itertools.count)

    async def _namespace(self, name: str) -> None:
        await self.api.create("Namespace", {"metadata": {"name": name}})
        claim = {"metadata": {"name": "data", "namespace": name},
                 "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "none",
                          "resources": {"requests": {"storage": "1Gi"}}}}  # fmt: skip
        await self.api.create("Claim", claim)
        while await self.api.get("Account", name, "default") is None:  # noqa: ASYNC110 - theirs to make
            await asyncio.sleep(0.05)

    def _environment(self, namespace: str, gate: Gate, folder: Path) -> dict[str, str]:
        document = json.loads(self.plane.kubeconfig("operator").read_text(encoding="utf-8"))
        document["clusters"][0]["cluster"] = {"server": gate.url}
        file = folder / f"{free_ports()[0]}.kubeconfig"
        file.write_text(json.dumps(document), encoding="utf-8")
        return direct_environment() | {
            "KUBECONFIG": str(file),
            "QWENFT_WATCH_NAMESPACE": namespace,
            "QWENFT_PROBE_URL": f"http://127.0.0.1:{free_ports()[0]}/healthz",
        }

    @asynccontextmanager
    async def operators(
        self, namespace: str, meddler: Meddler, *, count: int = 1, **options: Any
    ) -> AsyncIterator[list[Keeper]]:
        """Run ``count`` operators of a namespace behind one gate."""
        folder = self.plane.folder / namespace
        folder.mkdir()
        async with AsyncExitStack() as stack:
            gate = await stack.enter_async_context(Gate(self.session, self.plane.url, meddler))
            keepers = []
            for index in range(count):
                environment = self._environment(namespace, gate, folder)
                keeper = Keeper(environment, folder / f"operator-{index}.log", **options)
                keepers.append(await stack.enter_async_context(keeper))
            yield keepers

    async def live(
        self,
        life: Life,
        *,
        meddler: Callable[[Callable[[], None]], Meddler] | None = None,
        count: int = 1,
        seconds: float = 60.0,
        **options: Any,
    ) -> Lived:
        """Lead a life from its beginning to its end; ``meddler`` is given how to kill."""
        namespace = f"life-{next(self._numbers)}"
        await self._namespace(namespace)
        self.kubelet.programs[namespace] = life.program
        keepers: list[Keeper] = []
        made = Meddler()
        if meddler is not None:
            made = meddler(lambda: keepers[0].kill())  # noqa: PLW0108 - there is none yet
        async with self.operators(namespace, made, count=count, **options) as started:
            keepers.extend(started)
            try:
                outcome = await self._lead(life, namespace, seconds)
            except TimeoutError as error:
                starts = sum(each.starts for each in keepers)
                raise TimeoutError(f"{error}; {starts} starts\n{_said(keepers)[-6000:]}") from None
        log = _said(keepers)
        await self._sweep(namespace)
        return Lived(outcome=outcome, starts=sum(each.starts for each in keepers), log=log)

    async def _lead(self, life: Life, namespace: str, seconds: float) -> Outcome:
        user = User(self.api, namespace)
        await user.create(**life.sections)
        await life.script(user)
        return await settled(self.api, namespace, RUN, seconds=seconds)

    async def _sweep(self, namespace: str) -> None:
        """Free the nodes; what else is left costs nothing."""
        await self.api.delete("Run", namespace, RUN)


def _said(keepers: list[Keeper]) -> str:
    return "".join(each.log.read_text(encoding="utf-8") for each in keepers)


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Bring everything up, and end it at last."""
    place = layout.from_environment()
    pins = versions.load()
    for product in binaries.products(pins):
        if product.name in ("kubernetes", "etcd"):
            binaries.build(place, product)
    with plane(folder, place, scheduler=False) as made:
        connector = aiohttp.TCPConnector(ssl=context_of(made, "operator"), limit=0)
        api = AdminApi(made)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=2**22) as session:
            for name in _NODES:
                await api.create("Node", nodes.node(name))
            kubelet = Kubelet(api, _NODES)
            working = asyncio.create_task(kubelet.run())
            try:
                yield Scene(plane=made, api=api, kubelet=kubelet, session=session)
            finally:
                working.cancel()
                with suppress(asyncio.CancelledError):
                    await working
                await api.close()
