"""What kubectl is told of a run, before a real apiserver and Job controller; KWOK plays the nodes.

`kubectl wait` ends for each end of a run, whoever refuses its pods is quoted in the status, and a
run that is deleted while no operator looks leaves nothing behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bare import nodes
from bare.api import Api
from bare.plane import Plane, plane
from bare.process import Operator
from embedded import binaries, layout, versions
from embedded.stages import wait_until
from simulated.builders import run_body

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.usefixtures("operator")]

TEAM, TIGHT, GUARDED, METERED, SEALED = "team", "tight", "guarded", "metered", "sealed"
OURS = "jobs,pods,services,configmaps,networkpolicies,persistentvolumeclaims"
REFUSAL = "no pods after six o'clock"
NO_JOBS = "no Jobs in this namespace"
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "compute", "namespace": METERED},
    "spec": {"hard": {"pods": "0"}},
}
RANGE = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "small", "namespace": TIGHT},
    "spec": {"limits": [{"type": "Pod", "max": {"memory": "1Mi"}}]},
}


def guard(namespace: str, group: str, resource: str, words: str) -> tuple[dict[str, Any], ...]:
    """Return the policy by which one namespace takes no objects of a kind, and its binding."""
    api, there = "admissionregistration.k8s.io/v1", {"kubernetes.io/metadata.name": namespace}
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "resources": [resource],
            "operations": ["CREATE"]}  # fmt: skip
    policy = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "false", "message": words}],
    }
    binding = {
        "policyName": namespace,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": there}},
    }
    return (
        {"apiVersion": api, "kind": "ValidatingAdmissionPolicy",
         "metadata": {"name": namespace}, "spec": policy},
        {"apiVersion": api, "kind": "ValidatingAdmissionPolicyBinding",
         "metadata": {"name": namespace}, "spec": binding},
    )  # fmt: skip


WALLS = (
    RANGE, QUOTA, *guard(GUARDED, "", "pods", REFUSAL), *guard(SEALED, "batch", "jobs", NO_JOBS),
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    place = layout.from_environment()
    for product in (*binaries.products(versions.load()), *binaries.on_demand(versions.load())):
        binaries.build(place, product)
    with plane(tmp_path_factory.mktemp("told"), place) as started:
        for namespace in (TEAM, TIGHT, GUARDED, METERED, SEALED):
            started.namespace(namespace)
        nodes.make_nodes(started, 8)
        nodes.start_kwok(
            started,
            nodes.ending(1, 0, seconds=1, run="wins"),
            nodes.ending(1, 65, seconds=1, run="stops"),
            *(nodes.ending(n, 69, seconds=1, run="alone-restarting") for n in (1, 2, 3)),
            linger=1,
        )
        for body in WALLS:
            started.kubectl("create", "-f", "-", stdin=body)
        yield started


@pytest.fixture(scope="module")
def operator(made: Plane) -> Iterator[Operator]:
    with Operator.running(made) as started:
        yield started


def wait(made: Plane, name: str, what: str) -> None:
    """Let kubectl wait, as scripts do; raises with its own words when the time is over."""
    made.kubectl("wait", f"--for={what}", f"qft/{name}", "-n", TEAM, "--timeout=60s")


def items(made: Plane, namespace: str, kinds: str) -> list[dict[str, Any]]:
    listing = json.loads(made.kubectl("get", kinds, "-n", namespace, "-o", "json"))
    return list(listing["items"])


def message(made: Plane, namespace: str, name: str) -> str:
    (body,) = [it for it in items(made, namespace, "qft") if it["metadata"]["name"] == name]
    return str((body.get("status") or {}).get("message", ""))


def suspend(made: Plane, name: str, *, suspended: bool) -> None:
    patch = json.dumps({"spec": {"runPolicy": {"suspend": suspended}}})
    made.kubectl("patch", "qft", name, "-n", TEAM, "--type=merge", "-p", patch)


def of_run(made: Plane, name: str) -> list[str]:
    return [
        f"{body['kind']}/{body['metadata']['name']}"
        for body in items(made, TEAM, OURS)
        if body["metadata"].get("labels", {}).get("qwenft.dev/run") == name
    ]


def test_a_run_that_ends_well_is_waited_for(made: Plane) -> None:
    Api(made).create_run(run_body("wins", TEAM))
    wait(made, "wins", "condition=Planned")
    wait(made, "wins", "condition=Succeeded")
    wait(made, "wins", "condition=Ready")
    wait(made, "wins", "condition=Reconciling=False")
    wait(made, "wins", "jsonpath={.status.phase}=Succeeded")


def test_what_a_user_writes_in_any_script_reaches_the_pod(made: Plane) -> None:
    """An apply is YAML, which knows neither JSON's way to write an emoji nor all characters."""
    arguments = [
        "--note=\U0001f600 \u00fcn\u00efc\u00f6de",
        "\x1e\x7f\x85\u2028\ufeff\\ud83d",
        "\U0010ffff",
    ]
    body = run_body("emoji", TEAM)
    body["spec"]["trainer"] = {"args": arguments}
    Api(made).create_run(body)
    wait(made, "emoji", "jsonpath={.status.phase}=Starting")
    (job,) = [it for it in items(made, TEAM, "jobs") if it["metadata"]["name"] == "emoji-1"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == arguments


def test_a_run_that_fails_is_waited_for(made: Plane) -> None:
    Api(made).create_run(run_body("stops", TEAM))
    wait(made, "stops", "condition=Stalled")
    wait(made, "stops", "condition=Succeeded=False")
    wait(made, "stops", "jsonpath={.status.failure.exitCode}=65")


def test_a_suspended_run_and_its_going_on_and_its_deletion_are_waited_for(
    made: Plane,
) -> None:
    Api(made).create_run(run_body("rests", TEAM))
    wait(made, "rests", "jsonpath={.status.phase}=Starting")
    suspend(made, "rests", suspended=True)
    wait(made, "rests", "condition=Suspended")
    suspend(made, "rests", suspended=False)
    wait(made, "rests", "condition=Suspended=False")
    made.kubectl("delete", "qft", "rests", "-n", TEAM, "--wait=false")
    wait(made, "rests", "delete")


@pytest.mark.parametrize(
    ("namespace", "words"),
    [
        (TIGHT, "maximum memory usage per Pod"),
        (METERED, "exceeded quota: compute, requested: pods=1"),
        (GUARDED, REFUSAL),
        (SEALED, NO_JOBS),
    ],
)
def test_who_refuses_the_pods_or_their_job_is_quoted(
    made: Plane, operator: Operator, namespace: str, words: str
) -> None:
    Api(made).create_run(run_body("refused", namespace))
    wait_until(
        lambda: words in message(made, namespace, "refused"),
        seconds=60, what=words, log=operator.log,
    )  # fmt: skip
    assert items(made, namespace, "pods") == []


@pytest.mark.parametrize(
    "phase", ["Pending", "Starting", "Restarting", "Suspended", "Succeeded", "Failed"]
)
def test_a_run_deleted_while_no_operator_looks_leaves_nothing(
    made: Plane, operator: Operator, phase: str
) -> None:
    name = {"Succeeded": "wins", "Failed": "stops"}.get(phase, f"alone-{phase.lower()}")
    if name not in ("wins", "stops"):
        many = {"nodes": {"min": 99, "max": 99}} if phase == "Pending" else {}
        Api(made).create_run(run_body(name, TEAM, resources=many))
    if phase == "Suspended":
        wait(made, name, "jsonpath={.status.phase}=Starting")
        suspend(made, name, suspended=True)
        wait(made, name, "condition=Suspended")
    wait(made, name, f"jsonpath={{.status.phase}}={phase}")
    assert bool(of_run(made, name)) is (phase != "Pending")
    operator.stop()
    try:
        made.kubectl("delete", "qft", name, "-n", TEAM, "--timeout=30s")
        wait_until(lambda: of_run(made, name) == [], seconds=60, what="nothing of the run")
    finally:
        operator.start()
    Api(made).create_run(run_body(f"after-{phase.lower()}", TEAM))
    wait(made, f"after-{phase.lower()}", "jsonpath={.status.phase}=Starting")
    assert of_run(made, name) == [], "it was not made again"
