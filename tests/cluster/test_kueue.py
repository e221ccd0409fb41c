"""Runs in a queue of the real Kueue: admitted, made to wait, preempted, admitted again.

Kueue's controller is built from its Go module and runs beside a control plane of its own; pods are
KWOK's, so that nothing is trained here. What a trainer does when its pods are taken from it is
tested where there are trainers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bare import nodes
from bare.api import Api
from bare.kueue import API, start_kueue
from bare.plane import Plane, plane
from bare.process import Operator
from embedded import binaries, layout, versions
from embedded.stages import wait_until
from simulated.builders import run_body

pytestmark = [pytest.mark.cluster, pytest.mark.full]

TEAM = "team"
QUEUE = {"kueue.x-k8s.io/queue-name": "team-a"}
RACK = "example.com/rack"
RACKED = {"narrow-1": "narrow", "wide-1": "wide", "wide-2": "wide", "far-1": "far"}
"""Nodes with room for one pod each, and their racks."""
URGENT = QUEUE | {"kueue.x-k8s.io/priority-class": "urgent"}
OBJECTS: list[dict[str, Any]] = [
    {"kind": "ResourceFlavor", "metadata": {"name": "any"}},
    {"kind": "WorkloadPriorityClass", "metadata": {"name": "urgent"}, "value": 1000,
     "description": "goes before others"},
    {"kind": "ClusterQueue", "metadata": {"name": "all"}, "spec": {
        "namespaceSelector": {},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [{
            "coveredResources": ["cpu"],
            # Room for one run of two pods.
            "flavors": [{"name": "any", "resources": [{"name": "cpu", "nominalQuota": "2"}]}],
        }],
    }},
    {"kind": "LocalQueue", "metadata": {"name": "team-a", "namespace": TEAM},
     "spec": {"clusterQueue": "all"}},
    {"kind": "Topology", "metadata": {"name": "racks"},
     "spec": {"levels": [{"nodeLabel": RACK}, {"nodeLabel": "kubernetes.io/hostname"}]}},
    {"kind": "ResourceFlavor", "metadata": {"name": "racked"},
     "spec": {"nodeLabels": {"pool": "racks"}, "topologyName": "racks"}},
    {"kind": "ClusterQueue", "metadata": {"name": "by-rack"}, "spec": {
        "namespaceSelector": {},
        "resourceGroups": [{
            "coveredResources": ["cpu"],
            "flavors": [{"name": "racked", "resources": [{"name": "cpu", "nominalQuota": "9"}]}],
        }],
    }},
    {"kind": "LocalQueue", "metadata": {"name": "team-b", "namespace": TEAM},
     "spec": {"clusterQueue": "by-rack"}},
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    place = layout.from_environment()
    for product in (*binaries.products(versions.load()), *binaries.on_demand(versions.load())):
        binaries.build(place, product)
    with plane(tmp_path_factory.mktemp("kueue"), place) as started:
        started.namespace(TEAM)
        nodes.make_nodes(started, 4)
        for name, rack in RACKED.items():
            body = nodes.node(name, cpus=1)
            body["metadata"]["labels"] |= {"pool": "racks", RACK: rack}
            started.kubectl("create", "-f", "-", stdin=body)
        ends = [nodes.ending(1, 0, seconds=3, run=name) for name in ("first", "urgent")]
        nodes.start_kwok(started, *ends, linger=1)
        start_kueue(started)
        for body in OBJECTS:
            started.kubectl("create", "-f", "-", stdin={"apiVersion": API, **body})
        with Operator.running(started):
            yield started


@pytest.fixture(autouse=True)
def no_runs(made: Plane) -> Iterator[None]:
    """Leave the queue empty."""
    yield
    made.kubectl("delete", "qft", "--all", "-n", TEAM)
    wait_until(lambda: names(made, "jobs") == [], seconds=60, what="no Jobs")
    wait_until(lambda: names(made, "workloads.kueue.x-k8s.io") == [], seconds=60, what="an end")


def names(made: Plane, resource: str) -> list[str]:
    text = made.kubectl("get", resource, "-n", TEAM, "-o", "json")
    return [item["metadata"]["name"] for item in json.loads(text)["items"]]


def submit(made: Plane, name: str, labels: dict[str, str] | None = None) -> None:
    body = run_body(name, TEAM)
    body["metadata"]["labels"] = labels or QUEUE
    Api(made).create_run(body)


def run_of(made: Plane, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.kubectl("get", "qft", name, "-n", TEAM, "-o", "json"))
    return found


def job_of(made: Plane, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        made.kubectl("get", "job", f"{name}-1", "-n", TEAM, "-o", "json")
    )
    return found


def reach(made: Plane, name: str, phase: str, word: str = "") -> dict[str, Any]:
    def reached() -> bool:
        now = run_of(made, name).get("status") or {}
        return now.get("phase") == phase and word in now.get("message", "")

    wait_until(reached, seconds=120, what=f"{name} is {phase} {word}", every=0.3,
               log=made.folder / "operator.log")  # fmt: skip
    status: dict[str, Any] = run_of(made, name)["status"]
    return status


def test_runs_are_admitted_one_after_the_other(made: Plane) -> None:
    submit(made, "first")
    reach(made, "first", "Starting", "2 of 2 pods run")
    submit(made, "second")
    status = reach(made, "second", "Queued", "waiting for the queue team-a to admit Job second-1")
    assert status.get("startTime") is None, "the clock of its deadline does not run in a queue"
    job = job_of(made, "second")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["spec"]["suspend"] is True
    assert len(names(made, "workloads.kueue.x-k8s.io")) == 2
    reach(made, "first", "Succeeded")
    reach(made, "second", "Starting", "2 of 2 pods run")
    assert job_of(made, "second")["spec"]["suspend"] is False


def test_a_preempted_run_waits_as_it_is_and_goes_on(made: Plane) -> None:
    submit(made, "patient")
    reach(made, "patient", "Starting", "2 of 2 pods run")
    before = job_of(made, "patient")["metadata"]["uid"]
    submit(made, "urgent", URGENT)
    status = reach(made, "patient", "Queued")
    assert job_of(made, "patient")["spec"]["suspend"] is True
    reach(made, "urgent", "Succeeded")
    status = reach(made, "patient", "Starting", "2 of 2 pods run")
    assert job_of(made, "patient")["metadata"]["uid"] == before
    assert (status["attempt"], status.get("restarts", 0)) == (1, 0)
    assert "failure" not in status


def test_a_suspended_run_gives_its_quota_to_the_next(made: Plane) -> None:
    submit(made, "paused")
    reach(made, "paused", "Starting", "2 of 2 pods run")
    submit(made, "waits")
    reach(made, "waits", "Queued")
    patch = json.dumps({"spec": {"runPolicy": {"suspend": True}}})
    made.kubectl("patch", "qft", "paused", "-n", TEAM, "--type=merge", "-p", patch)
    reach(made, "paused", "Suspended")
    reach(made, "waits", "Starting", "2 of 2 pods run")
    patch = json.dumps({"spec": {"runPolicy": {"suspend": False}}})
    made.kubectl("patch", "qft", "paused", "-n", TEAM, "--type=merge", "-p", patch)
    reach(made, "paused", "Queued", "waiting for the queue team-a to admit Job paused-2")


def test_a_queue_that_is_not_there_leaves_the_run_waiting_for_it(made: Plane) -> None:
    submit(made, "lost", {"kueue.x-k8s.io/queue-name": "nowhere"})
    reach(made, "lost", "Queued", "waiting for the queue nowhere to admit Job lost-1")


def test_a_run_that_requires_one_rack_gets_one_that_has_room_for_all_its_pods(made: Plane) -> None:
    """Kueue chooses the rack, by the run's annotation on the pods, and holds them to it."""
    body = run_body("together", TEAM)
    body["metadata"] |= {
        "labels": {"kueue.x-k8s.io/queue-name": "team-b"},
        "annotations": {"kueue.x-k8s.io/podset-required-topology": RACK},
    }
    Api(made).create_run(body)
    reach(made, "together", "Starting", "2 of 2 pods run")
    listing = json.loads(made.kubectl("get", "pods", "-n", TEAM, "-o", "json"))["items"]
    assert {pod["spec"]["nodeName"] for pod in listing} == {"wide-1", "wide-2"}
    (workload,) = json.loads(
        made.kubectl("get", "workloads.kueue.x-k8s.io", "-n", TEAM, "-o", "json")
    )["items"]
    (assigned,) = workload["status"]["admission"]["podSetAssignments"]
    assert assigned["topologyAssignment"]["levels"] == ["kubernetes.io/hostname"]


def test_a_run_that_no_rack_can_hold_waits_in_the_queue(made: Plane) -> None:
    body = run_body("spread", TEAM, resources={"nodes": {"min": 3, "max": 3}})
    body["spec"]["training"]["batchSize"] = 12
    body["metadata"] |= {
        "labels": {"kueue.x-k8s.io/queue-name": "team-b"},
        "annotations": {"kueue.x-k8s.io/podset-required-topology": RACK},
    }
    Api(made).create_run(body)
    reach(made, "spread", "Queued", "waiting for the queue team-b to admit Job spread-1")
    wait_until(
        lambda: "topology" in made.kubectl("get", "workloads.kueue.x-k8s.io", "-n", TEAM,
                                           "-o", "jsonpath={.items[*].status.conditions}"),
        seconds=60, what="Kueue's reason", every=0.3,
    )  # fmt: skip
    assert names(made, "pods") == []


def test_a_run_that_another_cluster_s_queue_answers_for_is_left_alone(made: Plane) -> None:
    elsewhere = {"managedBy": "kueue.x-k8s.io/multikueue"}
    Api(made).create_run(run_body("elsewhere", TEAM, runPolicy=elsewhere))
    submit(made, "ours")
    reach(made, "ours", "Starting", "2 of 2 pods run")  # the operator has looked at both by then
    assert "phase" not in (run_of(made, "elsewhere").get("status") or {})
    assert names(made, "jobs") == ["ours-1"]
