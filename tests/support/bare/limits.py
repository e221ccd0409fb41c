"""What the control plane can do by itself: Indexed Jobs of as many pods, and no operator.

The Job controller makes an operator's pods too, so that these are its limit. Two kinds of pod: the
least that a pod can be, and what a run's own Job asks for, with its volumes and devices.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from bare import stored
from bare.api import Api
from bare.plane import Plane
from embedded.stages import wait_until

__all__ = ["jobs_of", "least", "seconds_alone", "stripped"]

NAMESPACE = "alone"
_SET_BY_CONTROLLER = ("controller-uid", "job-name")


def least(pods: int) -> dict[str, Any]:
    """Return the spec of an Indexed Job whose pods ask for next to nothing."""
    container = {
        "name": "c", "image": "trainer:1",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
    }  # fmt: skip
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        "template": template,
    }


def jobs_of(api: Api, namespace: str) -> list[dict[str, Any]]:
    """Return the specs of a namespace's Jobs as they could be made anew."""
    found = api.call("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    return [stripped(job["spec"]) for job in found]


def stripped(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Job's spec without what the Job controller and the apiserver have added."""
    template = dict(spec["template"])
    metadata = dict(template.get("metadata") or {})
    metadata["labels"] = {
        key: value
        for key, value in (metadata.get("labels") or {}).items()
        if not key.endswith(_SET_BY_CONTROLLER)
    }
    template["metadata"] = metadata
    kept = {key: value for key, value in spec.items() if key not in ("selector", "suspend")}
    return kept | {"template": template}


def seconds_alone(made: Plane, api: Api, specs: Iterable[Mapping[str, Any]]) -> float:
    """Return how long it takes from the first Job's creation until all pods of all exist.

    They go again before this returns, so that the next is measured on the same plane.
    """
    bodies = [
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"job-{index:04d}"},
         "spec": spec}
        for index, spec in enumerate(specs)
    ]  # fmt: skip
    wanted = sum(body["spec"]["completions"] for body in bodies)
    began = time.monotonic()
    for body in bodies:
        api.call("POST", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", body)
    wait_until(lambda: stored.count(made, "pods", NAMESPACE) >= wanted, seconds=180, what="pods")
    took = time.monotonic() - began
    made.kubectl("delete", "jobs", "--all", "-n", NAMESPACE)
    wait_until(lambda: not stored.count(made, "pods", NAMESPACE), seconds=240, what="their end")
    return took
