"""The store behind the operator's port: objects, versions, and deliberate crashes."""

from __future__ import annotations

import asyncio
import atexit
import copy
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

import msgspec

from qwenft_operator import names
from qwenft_operator.clock import format_time
from qwenft_operator.notebook import Notebook
from qwenft_operator.port import Conflict, Identity, Refused
from qwenft_operator.reconcile import Key, Reconciler
from qwenft_operator.reports import Reports
from qwenft_operator.run import Settings
from qwenft_operator.vigil import Vigil
from qwenft_plan.progress import Progress
from simulated.builders import node_body, run_body
from simulated.controllers import Controllers, Program

Body = dict[str, Any]
Place = tuple[str, str, str]

HOME = "qwenft-system"
LONGEST_LIFE = 3000
START = 1_800_000_000.0

# One loop for all looks of all worlds: making one takes longer than a look.
_LOOP = asyncio.Runner()
atexit.register(_LOOP.close)


class Crash(BaseException):
    """The operator's process dies here."""


def _snapshot(body: Body) -> Body:
    """Copy what may change while a reader holds it; a deep copy costs half of a test's time."""
    return {**body, "metadata": dict(body["metadata"])}


class World:
    """A cluster whose clock moves by whole seconds when it is told to."""

    def __init__(
        self, nodes: Iterable[str] = ("node-1", "node-2"), *, learns: bool = False
    ) -> None:
        self.now = START
        self.learns = learns
        self.objects: dict[Place, Body] = {}
        self.events: list[Body] = []
        self.writes: list[str] = []
        self.crash_at: int | None = None
        """Ordinal of the write around which the process dies; even: before it, odd: after it."""
        self.shared_for = 0.0
        """Seconds for which plans share a read; no events tell the process when to read anew."""
        self.refusals: dict[str, str] = {}
        """Kind → why the apiserver refuses it."""
        self.serves: tuple[str, ...] = ()
        """Kinds of gang APIs, as ``scheduling.volcano.sh/v1beta1/PodGroup``."""
        self.discoveries: list[str] = []
        self.tokens: dict[str, Identity] = {}
        self.reports = Reports()
        self.settings = Settings()
        self._counter = 0
        self._controllers = Controllers(self)
        for name in nodes:
            self.put(node_body(name))
        self.put(
            {"kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "team"}}
        )
        self.reconciler = self.new_process()

    # The operator's process.

    def new_process(self) -> Reconciler:
        """Start the operator anew: nothing in memory survives."""
        self.reports = Reports()
        notebook = Notebook(self, namespace=HOME if self.learns else "", name="qwenft")
        reconciler = Reconciler(
            self,
            settings=self.settings,
            reports=self.reports,
            notebook=notebook,
            clock=lambda: self.now,
            shared_for=self.shared_for,
        )
        reconciler.watched_by(Vigil(lambda: self.now))
        return reconciler

    def reconcile(self, name: str = "tiny", namespace: str = "team") -> float | None:
        """Look at a run once; a crash restarts the process and counts as a look."""
        try:
            return _LOOP.run(self._look(Key(namespace, name)))
        except Crash:
            self.crash_at = None
            self.reconciler = self.new_process()
            return 0.0

    @staticmethod
    def wait_for(coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end."""
        return _LOOP.run(coroutine)

    async def _look(self, key: Key) -> float | None:
        return await self.reconciler(key)

    def settle(self, name: str = "tiny") -> None:
        """Look at a run until it asks for no further look at once."""
        for _ in range(20):
            if self.reconcile(name) != 0.0:
                return
        raise AssertionError(f"{name} never settles")

    def tick(self, name: str = "tiny") -> None:
        """Let a second pass, and everything happen that happens in it."""
        self.now += 1.0
        self._controllers.step()
        self.settle(name)

    def pass_unseen(self, seconds: int) -> None:
        """Let seconds pass, and what happens in them, without a look of the operator."""
        for _ in range(seconds):
            self.now += 1.0
            self._controllers.step()

    def live_until(self, *phases: str, name: str = "tiny", seconds: int = LONGEST_LIFE) -> Body:
        """Let time pass until the run is in one of ``phases``; return its status."""
        for _ in range(seconds):
            status = self.status(name)
            if status.get("phase") in phases:
                return status
            self.tick(name)
        raise AssertionError(f"{name} never came to {phases}: {self.status(name)}")

    # What users and tests do.

    def submit(self, name: str = "tiny", **sections: Any) -> Body:
        """Create a run."""
        return self.put(run_body(name, **sections))

    def edit(self, name: str = "tiny", **sections: Mapping[str, Any]) -> None:
        """Change sections of the spec, as ``kubectl patch`` does."""
        body = self.objects[names.KIND, "team", name]
        for key, value in sections.items():
            body["spec"][key] = body["spec"].get(key, {}) | dict(value)
        body["metadata"]["generation"] += 1

    def queue(self, queue: str, name: str = "tiny") -> None:
        """Put a run into a queue of Kueue's."""
        self.objects[names.KIND, "team", name]["metadata"]["labels"] = {names.LABEL_QUEUE: queue}

    def admit(self, attempt: int = 1, name: str = "tiny", *, admitted: bool = True) -> None:
        """Do what Kueue does: let a suspended Job run, or (``admitted`` false) preempt it."""
        job = self.objects["Job", "team", f"{name}-{attempt}"]
        job["spec"]["suspend"] = not admitted
        self.touch(job)

    def program(self, program: Program) -> None:
        """Set what every trainer pod does from now on."""
        self._controllers.program = program

    def report(
        self,
        step: int,
        *,
        attempt: int | None = None,
        name: str = "tiny",
        checkpoint: int | None = None,
        remaining: float | None = None,
    ) -> None:
        """Deliver a progress report to the running process."""
        uid = self.objects[names.KIND, "team", name]["metadata"]["uid"]
        attempt = attempt or self.status(name).get("attempt", 0)
        progress = Progress(
            attempt=attempt,
            step=step,
            total_steps=100,
            loss=2.0,
            checkpoint_step=checkpoint,
            estimated_remaining_seconds=remaining,
        )
        self.reports.put(uid, progress)

    def lose(self, node: str) -> None:
        """Cut a node off: its kubelet falls silent, its pods' conditions turn unknown."""
        self.put(node_body(node, ready=False))

    def status(self, name: str = "tiny") -> Body:
        """Return the status of a run, empty before the first write."""
        body = self.objects.get((names.KIND, "team", name))
        return {} if body is None else body.get("status", {})

    def condition(self, kind: str, name: str = "tiny") -> str:
        """Return the status of one condition."""
        found = {item["type"]: item["status"] for item in self.status(name)["conditions"]}
        return str(found[kind])

    def of_kind(self, kind: str) -> list[Body]:
        """Return all objects of a kind."""
        return [body for place, body in sorted(self.objects.items()) if place[0] == kind]

    # The store.

    def put(self, body: Body) -> Body:
        """Store a new object as the apiserver does."""
        self._counter += 1
        metadata = body["metadata"] = dict(body["metadata"])
        metadata.setdefault("uid", f"uid-{self._counter}")
        metadata.setdefault("creationTimestamp", format_time(self.now))
        metadata["resourceVersion"] = str(self._counter)
        metadata.setdefault("generation", 1)
        self.objects[body["kind"], metadata.get("namespace", ""), metadata["name"]] = body
        return body

    def touch(self, body: Body) -> None:
        """Give a changed object its next version."""
        self._counter += 1
        body["metadata"]["resourceVersion"] = str(self._counter)

    def _write(self, what: str) -> None:
        if self.crash_at == 2 * len(self.writes):
            raise Crash(what)
        self.writes.append(what)

    def _written(self) -> None:
        if self.crash_at == 2 * len(self.writes) - 1:
            raise Crash(self.writes[-1])

    # The operator's port.

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        body = self.objects.get((kind, namespace, name))
        return None if body is None else _snapshot(body)

    async def list(
        self, kind: str, namespace: str = "", *, labels: str = "", fields: str = "",
        shape: type[Any] = dict,
    ) -> tuple[Mapping[str, Any], ...]:  # fmt: skip
        wanted = dict(part.split("=") for part in labels.split(",") if part)
        return tuple(
            msgspec.convert(_snapshot(body), shape)
            for body in self.of_kind(kind)
            if namespace in ("", body["metadata"].get("namespace", ""))
            and wanted.items() <= (body["metadata"].get("labels") or {}).items()
            and (kind != "Event" or body["involvedObject"]["uid"] in fields)
            and not (fields and body.get("status", {}).get("phase") in ("Succeeded", "Failed"))
        )

    async def served(self, api_version: str) -> frozenset[str]:
        self.discoveries.append(api_version)
        return frozenset(
            kind for version, _, kind in (each.rpartition("/") for each in self.serves)
            if version == api_version
        )  # fmt: skip

    async def apply(self, manifest: Mapping[str, Any]) -> str:
        kind, metadata = manifest["kind"], manifest["metadata"]
        self._write(f"apply {kind}/{metadata['name']}")
        if kind in self.refusals:
            raise Refused(f"{kind} {metadata['name']}", self.refusals[kind])
        old = self.objects.get((kind, metadata["namespace"], metadata["name"]))
        if old is None:
            self.put(copy.deepcopy(dict(manifest)))
        elif "resourceVersion" in metadata:
            if metadata["resourceVersion"] != old["metadata"]["resourceVersion"]:
                raise Conflict(metadata["name"])
            # What others wrote stays; what the applier leaves out of its own goes.
            foreign = {k: v for k, v in old["data"].items() if k not in old.get("applied", ())}
            old["data"] = foreign | manifest["data"]
            old["applied"] = set(manifest["data"])
            self.touch(old)
        elif kind == "ConfigMap" and old["data"] != manifest["data"]:
            raise Refused(f"{kind} {metadata['name']}", "data: field is immutable")
        elif kind == "Job" and old["spec"] != manifest["spec"]:
            raise Refused(f"{kind} {metadata['name']}", "spec.template: field is immutable")
        elif "ownerReferences" in metadata:
            old["metadata"]["ownerReferences"] = list(metadata["ownerReferences"])
        self._written()
        uid: str = self.objects[kind, metadata["namespace"], metadata["name"]]["metadata"]["uid"]
        return uid

    async def create(self, manifest: Mapping[str, Any]) -> None:
        kind, metadata = manifest["kind"], manifest["metadata"]
        self._write(f"create {kind}/{metadata['name']}")
        if kind in self.refusals:
            raise Refused(f"{kind} {metadata['name']}", self.refusals[kind])
        if (kind, metadata["namespace"], metadata["name"]) in self.objects:
            raise Conflict(metadata["name"])
        self.put(copy.deepcopy(dict(manifest)) | {"applied": set()})
        self._written()

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str, grace: int | None
    ) -> None:
        self._write(f"delete {kind}/{name}")
        body = self.objects.get((kind, namespace, name))
        if body is not None and body["metadata"]["uid"] == uid:
            self._controllers.delete(body, grace)
        self._written()

    async def replace_status(self, body: Mapping[str, Any]) -> str:
        metadata = body["metadata"]
        self._write(f"status {metadata['name']} {body['status']['phase']}")
        stored = self.objects.get((names.KIND, metadata["namespace"], metadata["name"]))
        if stored is not None:
            if stored["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
                raise Conflict(metadata["name"])
            stored["status"] = copy.deepcopy(dict(body["status"]))
            self.touch(stored)
        self._written()
        return str(self._counter)

    async def create_event(self, namespace: str, body: Mapping[str, Any]) -> None:
        assert namespace == body["metadata"]["namespace"]
        self.events.append(dict(body))

    async def review_token(self, token: str, audience: str) -> Identity | None:
        assert audience == names.AUDIENCE
        return self.tokens.get(token)
