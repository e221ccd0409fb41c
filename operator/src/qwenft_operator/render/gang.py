"""The object by which a gang scheduler knows the pods of one attempt, and what they say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenft_operator import names
from qwenft_operator.gangs import GangApi
from qwenft_operator.quantities import amount
from qwenft_operator.render.metadata import metadata
from qwenft_operator.run import Owner

__all__ = ["gang", "handed_over", "joined"]

_GROUP = "ranks"
_COSCHEDULING_LABEL = "scheduling.x-k8s.io/pod-group"
_VOLCANO_ANNOTATION = "scheduling.k8s.io/group-name"

Body = dict[str, Any]


def gang(api: GangApi, job: Mapping[str, Any], owner: Owner) -> Body:
    """Return the object for an attempt's Job; all of its pods or none are to start."""
    meta = metadata(owner, _name(job))
    meta["labels"] = dict(job["metadata"]["labels"])
    body = {"apiVersion": api.api_version, "kind": api.kind, "metadata": meta}
    return body | {"spec": _spec(api, job, owner)}


def _name(job: Mapping[str, Any]) -> str:
    meta = job["metadata"]
    return names.gang(meta["name"], meta["labels"][names.LABEL_PLAN])


def _spec(api: GangApi, job: Mapping[str, Any], owner: Owner) -> Body:
    count, pod = job["spec"]["completions"], job["spec"]["template"]["spec"]
    if api.name == "kubernetes":
        policy = {"gang": {"minCount": count}}
        if api.kind == "PodGroup":
            return {"schedulingPolicy": policy} | _priority(api, pod)
        reference = {"apiGroup": names.GROUP, "kind": names.KIND, "name": owner.name}
        return {"controllerRef": reference, "podGroups": [{"name": _GROUP, "policy": policy}]}
    spec: Body = {"minMember": count} | _priority(api, pod)
    if api.name == "volcano":
        # Without them Volcano lets a gang into its queue for which there is no room.
        spec["minResources"] = _all_of(pod["containers"][0]["resources"]["requests"], count)
        if owner.gang_queue:
            spec["queue"] = owner.gang_queue
    return spec


def _priority(api: GangApi, pod: Mapping[str, Any]) -> Body:
    if not api.takes_priority or "priorityClassName" not in pod:
        return {}
    return {"priorityClassName": pod["priorityClassName"]}


def _all_of(requests: Mapping[str, str], count: int) -> dict[str, str]:
    """Return what so many pods ask for together, cores in thousandths, bytes and units whole."""
    total = {key: amount(value) * count for key, value in requests.items()}
    return {
        key: f"{round(value * 1000)}m" if key == "cpu" else str(round(value))
        for key, value in total.items()
    }


def joined(job: Body, api: GangApi, scheduler: str) -> Body:
    """Return the Job whose pods belong to its gang; ``scheduler`` replaces the API's own."""
    name = _name(job)
    template = job["spec"]["template"]
    meta, pod = dict(template["metadata"]), dict(template["spec"])
    if api.name == "coscheduling":
        meta["labels"] = dict(meta["labels"]) | {_COSCHEDULING_LABEL: name}
    elif api.name == "volcano":
        meta["annotations"] = dict(meta.get("annotations") or {}) | {_VOLCANO_ANNOTATION: name}
    elif api.kind == "PodGroup":
        pod["schedulingGroup"] = {"podGroupName": name}
    else:
        pod["workloadRef"] = {"name": name, "podGroup": _GROUP}
    if scheduler or api.scheduler:
        pod["schedulerName"] = scheduler or api.scheduler
    spec = dict(job["spec"]) | {"template": {"metadata": meta, "spec": pod}}
    return dict(job) | {"spec": spec}


def handed_over(body: Mapping[str, Any], job: Mapping[str, Any], uid: str) -> Body:
    """Return the object as the Job's: it goes when the Job does, and with it the attempt.

    Before the Job is there, which needs it, it is the run's: so it goes with the run at the latest.
    """
    reference = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "name": job["metadata"]["name"],
        "uid": uid,
        "controller": True,
    }
    return dict(body) | {"metadata": dict(body["metadata"]) | {"ownerReferences": [reference]}}
