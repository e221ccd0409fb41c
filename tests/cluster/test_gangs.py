"""Gang schedulers before a real apiserver.

Kubernetes' own is the real one: its alpha gates are switched on in the apiserver and the scheduler
of the version that the embedded cluster has. Volcano and scheduler-plugins are **stand-ins**: the
fields of their definitions that are used here, in this project's words, and no scheduler behind
them; so that it is tested what is written, who may write it, and that it goes with the Job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bare import audit, nodes
from bare.api import Api
from bare.plane import ROOT, Plane, plane
from bare.process import Operator
from embedded import binaries, layout, versions
from embedded.stages import direct_environment, run, wait_until
from simulated.builders import run_body

pytestmark = [pytest.mark.cluster, pytest.mark.full]

TEAM = "team"
GATES = "--feature-gates=GenericWorkload=true"
WORKLOADS = "workloads.v1alpha1.scheduling.k8s.io"
LATER = ("scheduling.k8s.io", "podgroups")
QUANTITIES = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
    },
}
STAND_INS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "volcano": ("scheduling.volcano.sh", "v1beta1", {
        "minMember": {"type": "integer", "format": "int32", "minimum": 0},
        "minResources": QUANTITIES,
        "priorityClassName": {"type": "string"},
        "queue": {"type": "string", "maxLength": 253, "default": "default"},
    }),
    "coscheduling": ("scheduling.x-k8s.io", "v1alpha1", {
        "minMember": {"type": "integer", "format": "int32", "minimum": 1},
        "minResources": QUANTITIES,
        "scheduleTimeoutSeconds": {"type": "integer", "format": "int32"},
    }),
}  # fmt: skip


def definition(group: str, version: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the stand-in of a scheduler's PodGroup."""
    spec = {"type": "object", "properties": fields}
    schema = {"type": "object", "properties": {"spec": spec}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"podgroups.{group}",
            # As the upstream definitions say: a name under k8s.io that was approved.
            "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in for tests"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": "PodGroup", "plural": "podgroups", "singular": "podgroup"},
            "versions": [{"name": version, "served": True, "storage": True,
                          "schema": {"openAPIV3Schema": schema}}],
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    place = layout.from_environment()
    for product in (*binaries.products(versions.load()), *binaries.on_demand(versions.load())):
        binaries.build(place, product)
    with plane(
        tmp_path_factory.mktemp("gangs"),
        place,
        apiserver_flags=("--runtime-config=scheduling.k8s.io/v1alpha1=true", GATES),
        scheduler_flags=(f"{GATES},GangScheduling=true",),
    ) as started:
        started.namespace(TEAM)
        nodes.make_nodes(started, 2)
        nodes.start_kwok(started, linger=1)
        for group, version, fields in STAND_INS.values():
            started.kubectl("create", "-f", "-", stdin=definition(group, version, fields))
            name = f"crd/podgroups.{group}"
            started.kubectl("wait", "--for=condition=Established", name, "--timeout=30s")
        yield started


def rights_with(made: Plane, gang: str) -> list[dict[str, Any]]:
    """Return what the chart grants beside a gang scheduler."""
    command = [made.program("helm"), "template", "qwenft", ROOT / "charts" / "qwenft",
               "--namespace", "qwenft-system", "--set", f"scheduling.gang={gang}",
               "--kube-version", "1.35", "--show-only", "templates/rbac.yaml"]  # fmt: skip
    text = run([str(word) for word in command], environment=direct_environment())
    return [body for body in yaml.safe_load_all(text) if body]


@pytest.fixture
def operator(made: Plane, request: pytest.FixtureRequest) -> Iterator[Operator]:
    """Start the operator with one scheduler, and the rights that the chart grants with it."""
    gang = request.param
    for body in rights_with(made, gang):
        made.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=body)
    started = Operator.of(made, QWENFT_GANG=gang)
    try:
        started.start()
        yield started
    finally:
        started.stop()
        made.kubectl("delete", "qft", "--all", "-n", TEAM)
        wait_until(lambda: pods(made) == [], seconds=60, what="no pods")


def items(made: Plane, resource: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        made.kubectl("get", resource, "-n", TEAM, "-o", "json")
    )["items"]
    return found


def pods(made: Plane) -> list[dict[str, Any]]:
    return items(made, "pods")


def bound(made: Plane) -> int:
    return sum(bool(pod["spec"].get("nodeName")) for pod in pods(made))


def unplaced(made: Plane) -> int:
    """Return how many pods the scheduler has looked at and not placed."""
    return sum(
        condition["type"] == "PodScheduled" and condition["status"] == "False"
        for pod in pods(made)
        for condition in pod["status"].get("conditions") or ()
    )


@pytest.mark.parametrize("operator", ["kubernetes"], indirect=True)
def test_kubernetes_places_both_pods_or_neither(made: Plane, operator: Operator) -> None:
    made.stop("scheduler")
    Api(made).create_run(run_body("gang", TEAM))
    wait_until(lambda: len(pods(made)) == 2, seconds=60, what="two pods", log=operator.log)
    (workload,) = items(made, WORKLOADS)
    name = workload["metadata"]["name"]
    assert workload["spec"]["podGroups"][0]["policy"]["gang"] == {"minCount": 2}
    for pod in pods(made):
        assert pod["spec"]["workloadRef"] == {"name": name, "podGroup": "ranks"}
    made.kubectl("cordon", "node-0001")
    made.start_scheduler()
    # One finds no node; the other has found one and waits for it without taking it.
    wait_until(lambda: unplaced(made) == 1, seconds=60, what="a pod without a node")
    assert bound(made) == 0
    made.kubectl("uncordon", "node-0001")
    wait_until(lambda: bound(made) == 2, seconds=90, what="both pods placed")


@pytest.mark.parametrize("operator", ["none"], indirect=True)
def test_without_a_gang_one_pod_takes_the_only_node(made: Plane, operator: Operator) -> None:
    """The control of the test before: the same, and half of the gang holds its node."""
    made.stop("scheduler")
    Api(made).create_run(run_body("half", TEAM))
    wait_until(lambda: len(pods(made)) == 2, seconds=60, what="two pods", log=operator.log)
    made.kubectl("cordon", "node-0001")
    made.start_scheduler()
    wait_until(lambda: bound(made) == 1, seconds=60, what="one pod placed")
    made.kubectl("uncordon", "node-0001")
    wait_until(lambda: bound(made) == 2, seconds=90, what="both pods placed")


@pytest.mark.parametrize("operator", ["volcano", "coscheduling"], indirect=True)
def test_a_stand_in_takes_the_object_and_it_goes_with_its_job(
    made: Plane, operator: Operator, request: pytest.FixtureRequest
) -> None:
    group, version, _ = STAND_INS[request.node.callspec.params["operator"]]
    resource = f"podgroups.{version}.{group}"
    Api(made).create_run(run_body("stands", TEAM))
    wait_until(lambda: len(pods(made)) == 2, seconds=60, what="two pods", log=operator.log)
    wait_until(
        lambda: items(made, resource)[0]["metadata"]["ownerReferences"][0]["kind"] == "Job",
        seconds=30, what="the Job's own group", log=operator.log,
    )  # fmt: skip
    (body,) = items(made, resource)
    assert body["spec"]["minMember"] == 2
    assert len(body["metadata"]["ownerReferences"]) == 1
    assert bound(made) == 0, "the scheduler that the pods ask for is not there"
    patch = json.dumps({"spec": {"runPolicy": {"suspend": True}}})
    made.kubectl("patch", "qft", "stands", "-n", TEAM, "--type=merge", "-p", patch)
    wait_until(lambda: items(made, resource) == [], seconds=60, what="the group is collected")
    assert items(made, "qft")[0]["status"]["phase"] == "Suspended"


def test_nothing_was_forbidden(made: Plane) -> None:
    """Of all that the operators of the tests before have asked."""
    entries = list(audit.read(Path(made.audit)))
    assert [entry for entry in entries if entry.code in (401, 403)] == []
    groups = {entry.group for entry in entries if entry.resource in ("podgroups", "workloads")}
    assert groups == {"scheduling.k8s.io", "scheduling.volcano.sh", "scheduling.x-k8s.io"}


@pytest.mark.parametrize("gang", ["kubernetes", *STAND_INS])
def test_every_right_that_comes_with_a_scheduler_was_used(made: Plane, gang: str) -> None:
    def granted(wish: str) -> set[audit.Grant]:
        return {right for body in rights_with(made, wish) if "rules" in body
                for right in audit.grants(body)}  # fmt: skip

    more = granted(gang) - granted("none")
    assert more, "each scheduler's objects need rights of their own"
    idle = audit.idle(audit.read(Path(made.audit)), more)
    # This apiserver has no PodGroup of its own yet: Kubernetes 1.36 brings it.
    idle = {grant for grant in idle if (grant.group, grant.resource) != LATER}
    # Asked for by admission (OwnerReferencesPermissionEnforcement) when an object is handed over.
    assert {grant.verb for grant in idle} <= {"delete"}, idle
