"""What the rest of Kubernetes does in a second: Job controller, scheduler, kubelets, collector."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwenft_operator import names
from qwenft_operator.clock import format_time, parse_time
from qwenft_operator.fitness import is_ready

if TYPE_CHECKING:
    from simulated.world import World

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trainer container ends."""

    code: int
    message: dict[str, Any] | None = None
    reason: str = ""
    """The runtime's, ``OOMKilled``."""


Program = Callable[[int, int, float], "Ending | None"]
"""(attempt, node rank, seconds since the start) → its end, or None while it runs."""


def succeed_after(seconds: float, **more: str) -> Program:
    """Return a program that completes; ``more`` are further entries of its result."""
    result = {"steps": 100, "outputPath": "/data/out/model", "validationLossAfter": 1.5,
              "validationLossBefore": 5.5} | more  # fmt: skip
    done = Ending(code=0, message={"exitCode": 0, "reason": "Completed", "result": result})
    return lambda _attempt, _index, age: done if age >= seconds else None


def _ended(ending: Ending, now: float) -> Body:
    message = "" if ending.message is None else json.dumps(ending.message)
    ended = {"exitCode": ending.code, "finishedAt": format_time(now), "message": message}
    if ending.reason:
        ended["reason"] = ending.reason
    return {"name": names.CONTAINER, "state": {"terminated": ended}}


def _avoided(pod: Body) -> set[str]:
    """Return the nodes that the pod's affinity excludes."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return {
        value
        for term in required.get("nodeSelectorTerms", ())
        for field in term["matchFields"]
        for value in field["values"]
    }


def fails(code: int, *, after: float = 5, attempts: int = 1, index: int = 1) -> Program:
    """Return a program of which one rank fails in its first attempts, then all succeed."""
    message = {"exitCode": code, "reason": names.REASONS[code], "message": "boom", "rank": index}
    success = succeed_after(10)

    def program(attempt: int, rank: int, age: float) -> Ending | None:
        if attempt > attempts:
            return success(attempt, rank, age)
        if rank == index:
            return Ending(code=code, message=message) if age >= after else None
        consequence = {"exitCode": 69, "reason": "CommunicationFailure", "message": "peer closed"}
        return Ending(code=69, message=consequence) if age >= after else None

    return program


class Controllers:
    """All controllers of the simulated cluster."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.program: Program = succeed_after(20)

    def step(self) -> None:
        """Do a second's work."""
        self._collect()
        for job in self._world.of_kind("Job"):
            self._sync_job(job)
        for pod in self._world.of_kind("Pod"):
            self._sync_pod(pod)

    def delete(self, body: Body, grace: int | None) -> None:
        """Delete as the apiserver does: pods get their grace, everything else goes at once."""
        kind = body["kind"]
        if kind != "Pod" or grace == 0:
            self._remove(body)
            return
        metadata = body["metadata"]
        grace = 30 if grace is None else grace
        if grace < metadata.get("deletionGracePeriodSeconds", grace + 1):
            metadata["deletionGracePeriodSeconds"] = grace
            metadata["deletionTimestamp"] = format_time(self._world.now + grace)
            self._world.touch(body)

    def _remove(self, body: Body) -> None:
        metadata = body["metadata"]
        self._world.objects.pop((body["kind"], metadata.get("namespace", ""), metadata["name"]))

    def _collect(self) -> None:
        """Collect what has lost its owner; pods of a deleted Job are asked to end."""
        uids = {body["metadata"]["uid"] for body in self._world.objects.values()}
        for body in list(self._world.objects.values()):
            owners = body["metadata"].get("ownerReferences") or ()
            if owners and not any(owner["uid"] in uids for owner in owners):
                self.delete(body, None)

    # Jobs.

    def _pods(self, job: Body) -> dict[int, Body]:
        uid = job["metadata"]["uid"]
        found = {}
        for pod in self._world.of_kind("Pod"):
            owners = pod["metadata"].get("ownerReferences") or ()
            if any(owner["uid"] == uid for owner in owners):
                found[int(pod["metadata"]["labels"][names.LABEL_INDEX])] = pod
        return found

    def _sync_job(self, job: Body) -> None:
        status = job.setdefault("status", {"conditions": []})
        types = {item["type"] for item in status["conditions"]}
        if types & {"Complete", "Failed"}:
            return
        pods = self._pods(job)
        if job["spec"].get("suspend"):
            self._suspend_job(status, pods)
            return
        started = "pods" in status
        if not started:
            if pods:
                return  # of before it was suspended: none is replaced before it is gone
            status["pods"] = True
            status["startTime"] = format_time(self._world.now)
            for index in range(job["spec"]["completions"]):
                self._make_pod(job, index)
            return
        phases = [pod["status"]["phase"] for pod in pods.values()]
        lost = len(pods) < job["spec"]["completions"]
        if lost or "Failed" in phases:
            self._fail_job(status, pods, types)
        elif phases and all(phase == "Succeeded" for phase in phases):
            status["conditions"].append({"type": "Complete", "status": "True"})
            status["completionTime"] = format_time(self._world.now)

    def _suspend_job(self, status: Body, pods: dict[int, Body]) -> None:
        for pod in pods.values():
            if "deletionTimestamp" not in pod["metadata"]:
                self.delete(pod, None)
        if not pods:
            status.pop("pods", None)

    def _fail_job(self, status: Body, pods: dict[int, Body], types: set[str]) -> None:
        if "FailureTarget" not in types:
            status["conditions"].append({"type": "FailureTarget", "status": "True"})
        running = [pod for pod in pods.values() if pod["status"]["phase"] in ("Pending", "Running")]
        for pod in running:
            if "deletionTimestamp" not in pod["metadata"]:
                self.delete(pod, None)
        if not running:
            status["conditions"].append(
                {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
                 "lastTransitionTime": format_time(self._world.now)}
            )  # fmt: skip

    def _make_pod(self, job: Body, index: int) -> None:
        metadata, template = job["metadata"], job["spec"]["template"]
        self._world.put(
            {
                "kind": "Pod",
                "metadata": {
                    "name": f"{metadata['name']}-{index}-x",
                    "namespace": metadata["namespace"],
                    "labels": dict(template["metadata"]["labels"])
                    | {names.LABEL_INDEX: str(index)},
                    "ownerReferences": [{"kind": "Job", "uid": metadata["uid"]}],
                },
                "spec": copy.deepcopy(template["spec"]),
                "status": {"phase": "Pending", "conditions": []},
            }
        )

    # Scheduler and kubelets.

    def _sync_pod(self, pod: Body) -> None:
        if pod["status"]["phase"] in ("Succeeded", "Failed"):
            if "deletionTimestamp" in pod["metadata"]:
                self._remove(pod)
            return
        node = pod["spec"].get("nodeName")
        if node is None:
            self._schedule(pod)
        elif not is_ready(self._world.objects["Node", "", node]):
            self._set_ready(pod, "False")
        else:
            self._run(pod)

    def _schedule(self, pod: Body) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            self._remove(pod)
            return
        uid = pod["metadata"]["labels"][names.LABEL_UID]
        taken = {
            other["spec"].get("nodeName")
            for other in self._world.of_kind("Pod")
            if other["metadata"]["labels"].get(names.LABEL_UID) == uid
            and other["status"]["phase"] not in ("Succeeded", "Failed")
        }
        ready = [node for node in self._world.of_kind("Node") if is_ready(node)]
        taken |= _avoided(pod)
        free = [n["metadata"]["name"] for n in ready if n["metadata"]["name"] not in taken]
        if not free:
            message = f"0/{len(ready)} nodes are available"
            pod["status"]["conditions"] = [
                {"type": "PodScheduled", "status": "False", "message": message}
            ]
            return
        pod["spec"]["nodeName"] = free[0]
        pod["status"] = {"phase": "Running", "startTime": format_time(self._world.now)}
        self._set_ready(pod, "True")

    def _run(self, pod: Body) -> None:
        labels, world = pod["metadata"]["labels"], self._world
        age = world.now - (parse_time(pod["status"]["startTime"]) or world.now)
        attempt = int(labels[names.LABEL_ATTEMPT])
        ending = self.program(attempt, int(labels[names.LABEL_INDEX]), age)
        if ending is None and "deletionTimestamp" in pod["metadata"]:
            ending = Ending(code=64, message={"exitCode": 64, "reason": "Preempted"})
        if ending is None:
            self._set_ready(pod, "True")
            return
        if "containerStatuses" not in pod["status"]:
            # The container's end is reported a moment before the pod's.
            pod["status"]["containerStatuses"] = [_ended(ending, world.now)]
            return
        code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
        pod["status"]["phase"] = "Failed" if code else "Succeeded"
        self._set_ready(pod, "False")

    @staticmethod
    def _set_ready(pod: Body, status: str) -> None:
        pod["status"]["conditions"] = [{"type": "Ready", "status": status}]
