"""Reading what surrounds a run: its children, lost nodes, obstacles."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from qwenft_operator import names
from qwenft_operator.clock import parse_time
from qwenft_operator.excerpts import ChildPod, ListedNode
from qwenft_operator.fitness import is_ready
from qwenft_operator.observe import Children
from qwenft_operator.port import Cluster
from qwenft_operator.run import Owner, Run
from qwenft_operator.view import attempt_key, has_ended
from qwenft_plan.spec import FinetuneSpec

__all__ = ["creation_trouble", "list_children", "lost_nodes", "obstacles"]

Body = Mapping[str, Any]

_CREATION_SECONDS = 3.0
_ONE_BY_ONE = 20
"""Nodes that are asked for by themselves: a list of a thousand costs as much as about so many."""
_COMING_UP_SECONDS = 10.0
"""A pod younger than that is not ready because it starts: nobody knows yet of a node's loss.

Kubernetes notices it after 50 s; without this the nodes of a thousand pods that come up would be
asked for one by one, at each look.
"""


async def list_children(
    cluster: Cluster, namespace: str, name: str, *, attempt: int = 0
) -> Children:
    """List the objects that carry the run's name; ``attempt`` is the one that ought to have a Job.

    So ought one whose pods are there: the status may not have been written yet. A Job that is not
    among those listed is asked for by itself, as an object and not as a list of one: what a list
    leaves out may be missing in the list only, an old answer of a cache that this process cannot
    tell to be old if another operator made the Job.
    """
    labels = names.selector(name)
    jobs, pods, config_maps = await asyncio.gather(
        cluster.list("Job", namespace, labels=labels),
        cluster.list("Pod", namespace, labels=labels, shape=ChildPod),
        cluster.list("ConfigMap", namespace, labels=labels),
    )
    wanted = {names.job(name, number) for number in {attempt, *_attempts(pods)} if number}
    left_out = sorted(wanted - {body["metadata"]["name"] for body in jobs})
    alone = await asyncio.gather(*(cluster.get("Job", namespace, job) for job in left_out))
    jobs += tuple(body for body in alone if body is not None and _carries(body, name))
    return Children(jobs=jobs, pods=pods, config_maps=config_maps)


def _attempts(pods: Iterable[Body]) -> set[int]:
    """Return the attempts of pods that nobody has asked to go."""
    staying = (pod for pod in pods if "deletionTimestamp" not in pod["metadata"])
    numbers = {attempt_key(pod)[1] for pod in staying}
    return {int(number) for number in numbers if number.isdecimal()}


def _carries(body: Body, name: str) -> bool:
    """Whether an object is among those that :func:`names.selector` selects."""
    labels = body["metadata"].get("labels") or {}
    ours = labels.get(names.LABEL_MANAGED_BY) == names.FIELD_MANAGER
    return ours and labels.get(names.LABEL_RUN) == name


async def lost_nodes(cluster: Cluster, children: Children, now: float) -> frozenset[str]:
    """Return the nodes of suspicious pods that are not ready, or gone.

    A pod is suspicious while it ought to run but is not ready, or is being deleted: a node that is
    lost marks its pods so. Other nodes are not asked for.
    """
    suspects = sorted(
        {pod["spec"]["nodeName"] for pod in children.pods if _is_suspicious(pod, now)}
    )
    ready = await _ready_among(cluster, suspects)
    return frozenset(suspects) - ready


async def _ready_among(cluster: Cluster, nodes: list[str]) -> set[str]:
    """Return which of the nodes are ready; those that are gone are not."""
    found: Iterable[Body | None]
    if len(nodes) > _ONE_BY_ONE:
        found = await cluster.list("Node", shape=ListedNode)
    else:
        found = await asyncio.gather(*(cluster.get("Node", "", name) for name in nodes))
    return {node["metadata"]["name"] for node in found if node is not None and is_ready(node)}


async def creation_trouble(cluster: Cluster, namespace: str, children: Children, now: float) -> str:
    """Return why the Job controller cannot make a Job's pods: a quota, an admission policy.

    It tells so in Events only. They are asked for when pods are missing for longer than they take.
    """
    present = Counter(attempt_key(pod) for pod in children.pods)
    for job in children.jobs:
        age = now - (parse_time(job["metadata"].get("creationTimestamp")) or now)
        missing = job["spec"].get("completions", 0) > present[attempt_key(job)]
        over = has_ended(job) or job["spec"].get("suspend")
        if missing and not over and age > _CREATION_SECONDS:
            fields = f"involvedObject.uid={job['metadata']['uid']},reason=FailedCreate"
            events = await cluster.list("Event", namespace, fields=fields)
            return max((str(event.get("message", "")) for event in events), default="")
    return ""


def _is_suspicious(pod: Body, now: float) -> bool:
    status, deleting = pod.get("status") or {}, "deletionTimestamp" in pod["metadata"]
    if not pod["spec"].get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return False
    if status.get("phase") == "Pending" and not deleting:
        created = parse_time(pod["metadata"].get("creationTimestamp")) or 0.0
        return not 0 <= now - created < _COMING_UP_SECONDS
    conditions = status.get("conditions") or ()
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return not ready or deleting


async def obstacles(cluster: Cluster, run: Run, attempt: int) -> tuple[str, ...]:
    """Return a sentence for each thing that keeps an attempt's objects from being made."""
    assert run.spec is not None  # noqa: S101 - only a run with a spec is started
    namespace = run.owner.namespace
    found = await asyncio.gather(
        _missing_claims(cluster, run.spec, namespace),
        _missing_script(cluster, run.spec, namespace),
        _names_in_use(cluster, run.owner, attempt),
    )
    return tuple(sentence for sentences in found for sentence in sentences)


async def _missing_claims(cluster: Cluster, spec: FinetuneSpec, namespace: str) -> list[str]:
    sections = ("model", "dataset", "output")
    volumes = {section: getattr(spec, section).volume for section in sections}
    claims = {section: volume.claim_name for section, volume in volumes.items() if volume}
    # Mostly one claim holds all three: it is asked for once.
    wanted = sorted(set(claims.values()))
    bodies = await asyncio.gather(
        *(cluster.get("PersistentVolumeClaim", namespace, claim) for claim in wanted)
    )
    missing = {claim for claim, body in zip(wanted, bodies, strict=True) if body is None}
    return [
        f"spec.{section}.volume.persistentVolumeClaim.claimName: "
        f"there is no PersistentVolumeClaim {claim!r}"
        for section, claim in claims.items()
        if claim in missing
    ]


async def _missing_script(cluster: Cluster, spec: FinetuneSpec, namespace: str) -> list[str]:
    script = spec.trainer.script
    if script is None:
        return []
    config_map = await cluster.get("ConfigMap", namespace, script.config_map)
    field = "spec.trainer.script.configMap"
    if config_map is None:
        return [f"{field}.name: there is no ConfigMap {script.config_map!r}"]
    if script.key not in (config_map.get("data") or {}):
        return [f"{field}.key: ConfigMap {script.config_map!r} has no {script.key!r}"]
    return []


async def _names_in_use(cluster: Cluster, owner: Owner, attempt: int) -> list[str]:
    """Return which of the objects to be made exist and belong to somebody else.

    A forced apply would take them over: a Service of the run's name may be the user's own.
    """
    wanted = (
        ("Service", names.service(owner.name)),
        ("NetworkPolicy", owner.name),
        ("Job", names.job(owner.name, attempt)),
    )
    bodies = await asyncio.gather(
        *(cluster.get(kind, owner.namespace, name) for kind, name in wanted)
    )
    return [
        f"metadata.name: there is a {kind} {name!r} that is not this run's; use another name"
        for (kind, name), body in zip(wanted, bodies, strict=True)
        if body is not None
        and (body["metadata"].get("labels") or {}).get(names.LABEL_UID) != owner.uid
    ]
