"""Reading what surrounds a run: its children, lost nodes, free capacity, obstacles."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from qwenft_operator import names
from qwenft_operator.clock import parse_time
from qwenft_operator.nodes import Capacity, capacity, is_ready, requests_of
from qwenft_operator.observe import Children
from qwenft_operator.port import Cluster
from qwenft_operator.run import Owner, Run
from qwenft_plan.spec import FinetuneSpec

__all__ = ["creation_trouble", "list_children", "lost_nodes", "obstacles", "read_capacity"]

Body = Mapping[str, Any]

_FAILURES, _ENDS = ("Failed", "FailureTarget"), ("Complete", "SuccessCriteriaMet")
_CREATION_SECONDS = 3.0
_ALIVE = (names.STARTING, names.TRAINING, names.RESTARTING, names.QUEUED)
_NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"


async def list_children(cluster: Cluster, namespace: str, name: str) -> Children:
    """List the objects that carry the run's name."""
    labels = names.selector(name)
    jobs, pods, config_maps = await asyncio.gather(
        cluster.list("Job", namespace, labels=labels),
        cluster.list("Pod", namespace, labels=labels),
        cluster.list("ConfigMap", namespace, labels=labels),
    )
    return Children(jobs=jobs, pods=pods, config_maps=config_maps)


async def lost_nodes(cluster: Cluster, children: Children) -> frozenset[str]:
    """Return the nodes of suspicious pods that are not ready, or gone.

    A pod is suspicious while it ought to run but is not ready, or is being deleted: a node that is
    lost marks its pods so. Other nodes are not asked for.
    """
    suspects = sorted({pod["spec"]["nodeName"] for pod in children.pods if _is_suspicious(pod)})
    nodes = await asyncio.gather(*(cluster.get("Node", "", name) for name in suspects))
    return frozenset(
        name
        for name, node in zip(suspects, nodes, strict=True)
        if node is None or not is_ready(node)
    )


async def creation_trouble(cluster: Cluster, namespace: str, children: Children, now: float) -> str:
    """Return why the Job controller cannot make a Job's pods: a quota, an admission policy.

    It tells so in Events only. They are asked for when pods are missing for longer than they take.
    """
    present = Counter(_attempt_key(pod) for pod in children.pods)
    for job in children.jobs:
        age = now - (parse_time(job["metadata"].get("creationTimestamp")) or now)
        missing = job["spec"].get("completions", 0) > present[_attempt_key(job)]
        over = _has_ended(job, *_FAILURES, *_ENDS) or job["spec"].get("suspend")
        if missing and not over and age > _CREATION_SECONDS:
            fields = f"involvedObject.uid={job['metadata']['uid']},reason=FailedCreate"
            events = await cluster.list("Event", namespace, fields=fields)
            return max((str(event.get("message", "")) for event in events), default="")
    return ""


def _is_suspicious(pod: Body) -> bool:
    status = pod.get("status") or {}
    if not pod["spec"].get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return False
    conditions = status.get("conditions") or ()
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return not ready or "deletionTimestamp" in pod["metadata"]


async def read_capacity(
    cluster: Cluster, run: Run, scope: str, networks: Mapping[str, float] | None = None
) -> Capacity:
    """Return what the cluster has free for the run; ``scope`` is the watched namespace or empty.

    ``networks``: rates between nodes that the settings give.
    """
    assert run.spec is not None  # noqa: S101 - only a run with a spec is planned
    nodes, pods, jobs, runs = await asyncio.gather(
        cluster.list("Node"),
        cluster.list("Pod", fields=_NOT_ENDED),
        cluster.list("Job", scope, labels=f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"),
        cluster.list(names.KIND, scope),
    )
    others = [body for body in runs if body["metadata"]["uid"] != run.owner.uid]
    if run.owner.queue:
        # Kueue decides when, by its quotas: the plan is for the nodes that there are.
        pods, jobs = (), ()
    promised = _promised(jobs, pods) + _kept(others, jobs)
    found = capacity(run.spec.resources, nodes, pods, promised, networks)
    return replace(found, ahead=sum(_is_ahead(body, run) for body in others))


def _is_ahead(body: Body, run: Run) -> bool:
    """Whether another run waits for nodes, and has waited for longer."""
    phase = (body.get("status") or {}).get("phase", "")
    policy = (body.get("spec") or {}).get("runPolicy") or {}
    elsewhere = policy.get("managedBy", "") not in ("", names.MANAGER)
    created = parse_time(body["metadata"].get("creationTimestamp")) or 0.0
    return (
        phase in ("", names.PENDING)
        and not (policy.get("suspend") or elsewhere)
        and (created < run.created_at)
    )


def _promised(jobs: tuple[Body, ...], pods: tuple[Body, ...]) -> list[dict[str, float]]:
    """Return the requests of pods that running Jobs of this operator have not created yet."""
    present = Counter(_attempt_key(pod) for pod in pods)
    promised: list[dict[str, float]] = []
    for job in jobs:
        missing = job["spec"].get("completions", 0) - present[_attempt_key(job)]
        if (
            missing > 0
            and not _has_ended(job, *_FAILURES, *_ENDS)
            and not job["spec"].get("suspend")
        ):
            promised.extend([requests_of(job["spec"]["template"]["spec"])] * missing)
    return promised


def _kept(runs: Iterable[Body], jobs: tuple[Body, ...]) -> list[dict[str, float]]:
    """Return what restarting runs had: a run between two attempts must not lose its nodes.

    A Job that has just failed counts too, whether or not its run has been looked at since.
    """
    by_run = {_attempt_key(job): job for job in jobs}
    kept: list[dict[str, float]] = []
    for body in runs:
        status = body.get("status") or {}
        job = by_run.get((body["metadata"]["uid"], str(status.get("attempt"))))
        if status.get("phase") in _ALIVE and job is not None and _has_ended(job, *_FAILURES):
            wanted = requests_of(job["spec"]["template"]["spec"])
            kept.extend([wanted] * job["spec"].get("completions", 0))
    return kept


def _attempt_key(body: Body) -> tuple[str, str]:
    labels = body["metadata"].get("labels") or {}
    return labels.get(names.LABEL_UID, ""), labels.get(names.LABEL_ATTEMPT, "")


def _has_ended(job: Body, *ends: str) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(item["type"] in ends and item["status"] == "True" for item in conditions)


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
    found: list[str] = []
    for section in ("model", "dataset", "output"):
        volume = getattr(spec, section).volume
        if volume is None:
            continue
        if await cluster.get("PersistentVolumeClaim", namespace, volume.claim_name) is None:
            field = f"spec.{section}.volume.persistentVolumeClaim.claimName"
            found.append(f"{field}: there is no PersistentVolumeClaim {volume.claim_name!r}")
    return found


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
