"""What a user can tell of a run that is over: uids, times and random names aside."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from chaos.api import AdminApi
from qwenft_operator import names

__all__ = ["Outcome", "read_outcome", "settled"]

Body = dict[str, Any]
_POD = re.compile(r"(-\d+-\d+)-[a-z0-9]{5}\b")
_COUNTERS = ("attempt", "restarts", "retries", "suspendedAttempt", "memoryBudgetGiB",
             "memoryPerNodeGiB", "observedGeneration", "result")  # fmt: skip
_REST = 0.7


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end state of one namespace with one run."""

    run: tuple[Any, ...]
    objects: tuple[str, ...]
    events: tuple[tuple[str, int], ...] = ()
    """How often each reason was told; told apart, since a crash may lose what follows a status."""

    def same(self, other: Outcome) -> bool:
        """Whether both ended alike, and ``self`` tells of nothing that ``other`` does not."""
        told, known = Counter(dict(self.events)), Counter(dict(other.events))
        return (self.run, self.objects) == (other.run, other.objects) and told <= known


def _run(body: Body | None) -> tuple[Any, ...]:
    if body is None:
        return ("gone",)
    status = body.get("status") or {}
    failures = tuple(
        (item["attempt"], item["reason"], item.get("exitCode"), item.get("rank"))
        for item in status.get("failures") or ()
    )
    conditions = tuple(
        (item["type"], item["status"], item["reason"]) for item in status.get("conditions") or ()
    )
    workers = status.get("workers") or {}
    return (
        status.get("phase"),
        _POD.sub(r"\1", status.get("message", "")),
        tuple((key, str(status[key])) for key in _COUNTERS if key in status),
        failures,
        conditions,
        (status.get("plan") or {}).get("digest"),
        (workers.get("ready"), workers.get("total")),
    )


def _object(kind: str, body: Body) -> str:
    metadata, status = body["metadata"], body.get("status") or {}
    labels = metadata.get("labels") or {}
    name = _POD.sub(r"\1", metadata["name"])
    if kind == "Pod":
        return f"Pod/{name} {status.get('phase')}{' going' * ('deletionTimestamp' in metadata)}"
    if kind == "Job":
        true = [item["type"] for item in status.get("conditions") or () if item["status"] == "True"]
        spec = body["spec"]
        words = (spec["completions"], spec.get("suspend"), labels[names.LABEL_PLAN])
        return f"Job/{name} {words} {' '.join(sorted(true))}"
    return f"{kind}/{name}"


async def read_outcome(api: AdminApi, namespace: str, name: str) -> Outcome:
    """Read everything of a namespace that the operator may have made."""
    kinds = ("Job", "Pod", "ConfigMap", "Service", "NetworkPolicy")
    run = await api.get("Run", namespace, name)
    bodies = [(kind, body) for kind in kinds for body in await api.list(kind, namespace)]
    objects = sorted(_object(kind, body) for kind, body in bodies)
    events = [body for body in await api.list("Event", namespace)
              if body["involvedObject"]["kind"] == names.KIND]  # fmt: skip
    told = Counter(body["reason"] for body in events)
    return Outcome(
        run=_run(run),
        objects=tuple(each for each in objects if each != "ConfigMap/kube-root-ca.crt"),
        events=tuple(sorted(told.items())),
    )


async def settled(api: AdminApi, namespace: str, name: str, *, seconds: float) -> Outcome:
    """Return the outcome once two looks agree and no pod is on its way; the last look if never."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    last = None
    while True:
        now = await read_outcome(api, namespace, name)
        going = any(each.endswith(" going") for each in now.objects)
        if (now == last and not going) or loop.time() > deadline:
            return now
        last = now
        await asyncio.sleep(_REST)
