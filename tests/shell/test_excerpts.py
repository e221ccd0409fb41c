"""What is read of listed objects tells the same as the whole objects would."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qwenft_operator import names
from qwenft_operator.claims import Claim, requests_of
from qwenft_operator.excerpts import ChildPod, ListedJob, ListedNode, ListedPod, ListedRun
from qwenft_operator.observe import Children, observe
from qwenft_operator.run import Owner, Run
from qwenft_operator.view import attempt_key, has_ended
from simulated import node_body
from simulated.builders import run_body

LABELS = names.run_labels("r", "uid") | {
    names.LABEL_ATTEMPT: "3", names.LABEL_INDEX: "2", "other": "x",
}  # fmt: skip
SPEC: dict[str, Any] = {
    "nodeName": "n",
    "containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}, "env": [{}]}
    ],
    "initContainers": [
        {"restartPolicy": "Always", "resources": {"limits": {"cpu": "1"}}, "command": ["x"]}
    ],
    "overhead": {"memory": "1Gi"},
    "volumes": [{}],
}
METADATA: dict[str, Any] = {
    "name": "r-3-2", "namespace": "team", "uid": "p", "labels": LABELS, "managedFields": [{}],
    "creationTimestamp": "2026-01-02T03:04:05Z", "deletionTimestamp": "2026-01-02T04:04:05Z",
    "deletionGracePeriodSeconds": 30, "generation": 4, "annotations": {"kueue.x-k8s.io/a": "b"},
}  # fmt: skip
OWNER = Owner(name="r", namespace="team", uid="uid", spec={})
ENDED = {"exitCode": 68, "finishedAt": "2026-01-02T03:05:05Z", "message": '{"reason": "X"}'}
WAITING = {"reason": "ImagePullBackOff", "message": "no such image"}
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "Evicted"}


def read(body: Any, shape: Any) -> Any:
    """Return what is left of an object that is read from an answer."""
    found = msgspec.json.decode(msgspec.json.encode(body), type=shape)
    assert found == msgspec.convert(body, shape), "as the simulated world does it"
    return found


def state(**given: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": names.CONTAINER, "state": given, "imageID": "sha"}]}


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"phase": "Failed", **state(terminated=ENDED)},
        {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"},
        {"phase": "Pending", **state(waiting=WAITING)},
        {"phase": "Pending", "conditions": [UNSCHEDULED]},
        {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}, DISRUPTED]},
        {"phase": "Failed", "containerStatuses": None, "conditions": None},
    ],
)
def test_a_pod_fares_as_the_whole_one_does(status: dict[str, Any]) -> None:
    pod = {"metadata": METADATA, "spec": SPEC, "status": {"podIP": "10.0.0.1", **status}}
    bare = {**pod, "spec": {"containers": []}}
    for whole in (pod, bare):
        seen = [
            observe(OWNER, Children(pods=(body,)), lost_nodes=["n"])
            for body in (whole, read(whole, ChildPod))
        ]
        assert seen[0] == seen[1]
        assert len(seen[0].pods) == 1


def test_a_listed_pod_and_a_listed_job_plan_as_the_whole_ones_do() -> None:
    pod = {"metadata": METADATA, "spec": SPEC}
    job = {
        "metadata": METADATA,
        "spec": {"completions": 4, "suspend": True, "template": {"spec": SPEC}},
        "status": {"conditions": [{"type": "Failed", "status": "True"}], "active": 1},
    }
    listed, made = read(pod, ListedPod), read(job, ListedJob)
    assert (attempt_key(listed), attempt_key(made)) == (("uid", "3"),) * 2
    assert Claim.of(listed) == Claim.of(pod) != Claim(requests={})
    assert requests_of(made["spec"]["template"]["spec"]) == requests_of(SPEC)
    assert has_ended(made)
    assert (made["spec"]["completions"], made["spec"]["suspend"]) == (4, True)


def test_bare_pods_and_jobs_are_read_too() -> None:
    pod: Any = {"metadata": {"name": "p"}, "spec": {"containers": []}}
    assert Claim.of(read(pod, ListedPod)) == Claim.of(pod)
    assert attempt_key(read(pod, ListedPod)) == ("", "")
    job = {"metadata": {"name": "j"}, "spec": {"template": {"spec": {"containers": []}}}}
    assert not has_ended(read(job, ListedJob))


def test_a_node_keeps_what_plans_depend_on() -> None:
    node = node_body("n", labels={"a": "b"}, annotations={"c": "d"})
    node["spec"] = {"unschedulable": True, "taints": [{"key": "k", "effect": "NoSchedule"}]}
    kept = read(node | {"status": node["status"] | {"images": [{"names": ["x"] * 50}]}}, ListedNode)
    assert "images" not in kept["status"]
    assert kept["spec"] == node["spec"]
    assert kept["metadata"] == {key: node["metadata"][key] for key in kept["metadata"]}
    assert kept["metadata"].keys() >= {"name", "labels", "annotations"}
    assert kept["status"].keys() == {"allocatable", "conditions"}


def test_a_listed_run_is_parsed_as_the_whole_one_is() -> None:
    body = run_body("r")
    body["metadata"] |= METADATA
    body["status"] = {"phase": "Training", "plan": {"digest": "d"}}
    listed, whole = Run.from_object(read(body, ListedRun)), Run.from_object(body)
    for name in ("owner", "generation", "deleting", "created_at", "spec", "error", "status"):
        assert getattr(listed, name) == getattr(whole, name), name


@pytest.mark.parametrize("shape", [ChildPod, ListedJob, ListedNode, ListedPod, ListedRun])
def test_what_the_apiserver_manages_is_left_out(shape: Any) -> None:
    whole = {"metadata": METADATA | {"managedFields": [{"manager": "x"}] * 9}, "kind": "K"}
    assert "manage" not in str(read(whole, shape)["metadata"].keys())
