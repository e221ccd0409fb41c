"""The run policy before a real apiserver, Job controller, scheduler and garbage collector.

Pods are KWOK's: they end as they are told to. Suspending where ranks save is in test_e2e_lifecycle.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from bare import nodes
from bare.api import Api
from bare.plane import Plane, plane
from bare.process import Operator
from bare.team import Team
from embedded import binaries, layout, versions
from embedded.stages import wait_until
from qwenft_operator.clock import parse_time

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]

WHOLE_NODES = {"nodes": {"min": 2, "max": 2}, "processesPerNode": 2}
ENDING_WELL = ("keeps-none", "keeps-running", "keeps-all", "short", "unseen")
OURS = "qft,jobs,pods,services,configmaps,networkpolicies"
DISRUPTED = ("Preempted", "Disrupted", "PodDeleted")
SOON = 4
"""Seconds of a deadline, or of a time to live."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    place = layout.from_environment()
    for product in (*binaries.products(versions.load()), *binaries.on_demand(versions.load())):
        binaries.build(place, product)
    with plane(tmp_path_factory.mktemp("policy"), place) as started:
        started.namespace("team")
        for name in ("node-0000", "node-0001"):
            started.kubectl("create", "-f", "-", stdin=nodes.node(name, cpus=2))
        ends = [nodes.ending(1, 0, seconds=1, run=name) for name in ENDING_WELL]
        ends += [nodes.ending(n, 69, seconds=1, run="again") for n in (1, 2, 3)]
        ends += [nodes.ending(1, 65, seconds=1, run="wrong", index="1")]
        nodes.start_kwok(started, *ends, linger=1, saves=True)
        yield started


@pytest.fixture(scope="module")
def operator(made: Plane) -> Iterator[Operator]:
    with Operator.running(made) as started:
        yield started


@pytest.fixture
def team(made: Plane, operator: Operator) -> Iterator[Team]:
    assert operator
    found = Team(plane=made, api=Api(made))
    yield found
    found.clear()


def until_later(moment: object, seconds: float) -> None:
    """Wait until so many seconds have passed since a time stamp."""
    since = parse_time(moment)
    assert since is not None
    wait_until(lambda: now() > since + seconds, seconds=60, what=f"{seconds} s", every=0.1)


def now() -> float:
    return datetime.now(UTC).timestamp()


@pytest.mark.parametrize("policy", ["None", "Running", "All"])
def test_a_deadline_ends_the_run_and_whatever_runs_of_it(team: Team, policy: str) -> None:
    limits = {"activeDeadlineSeconds": SOON, "cleanPodPolicy": policy}
    team.submit("late", runPolicy=limits)
    team.reach("late", "Starting", word="2 of 2 pods run")
    told = team.reach("late", "Failed", word=f"longer than activeDeadlineSeconds, {SOON} s")
    began, ended = parse_time(told["startTime"]), parse_time(told["completionTime"])
    assert began is not None
    assert ended is not None
    assert ended - began >= SOON
    team.kubectl("wait", "--for=condition=Stalled", "qft/late", "--timeout=5s")
    team.await_pods("late", 0)


def test_a_deadline_does_not_run_while_the_run_is_suspended(team: Team) -> None:
    team.submit("pausing", runPolicy={"activeDeadlineSeconds": 2 * SOON})
    began = team.reach("pausing", "Starting", word="2 of 2 pods run")["startTime"]
    suspend(team, "pausing", suspended=True)
    team.reach("pausing", "Suspended")
    until_later(began, 2 * SOON + 1)
    assert team.status("pausing")["phase"] == "Suspended"
    suspend(team, "pausing", suspended=False)
    told = team.reach("pausing", "Starting", word="2 of 2 pods run", attempt=2)
    assert told["startTime"] > began
    team.reach("pausing", "Failed", word="activeDeadlineSeconds")


def suspend(team: Team, name: str, *, suspended: bool) -> None:
    patch = f'{{"spec":{{"runPolicy":{{"suspend":{str(suspended).lower()}}}}}}}'
    team.kubectl("patch", "qft", name, "--type=merge", "-p", patch)


@pytest.mark.parametrize(("policy", "left"), [("None", 2), ("Running", 2), ("All", 0)])
def test_ended_pods_stay_for_their_logs_unless_all_are_to_go(
    team: Team, policy: str, left: int
) -> None:
    name = f"keeps-{policy.lower()}"
    team.submit(name, runPolicy={"cleanPodPolicy": policy})
    team.reach(name, "Succeeded")
    found = team.await_pods(name, left)
    assert {pod["status"]["phase"] for pod in found} <= {"Succeeded"}
    jobs = team.kubectl("get", "jobs", "-o", "name").split()
    assert jobs == ([f"job.batch/{name}-1"] if left else [])


@pytest.mark.parametrize(("policy", "left"), [("Running", {"1"}), ("All", set())])
def test_of_a_run_that_failed_the_pod_that_tells_why_stays(
    team: Team, policy: str, left: set[str]
) -> None:
    team.submit("wrong", runPolicy={"cleanPodPolicy": policy})
    assert team.reach("wrong", "Failed")["failure"]["exitCode"] == 65
    found = team.await_pods("wrong", len(left))
    index = "batch.kubernetes.io/job-completion-index"
    assert {pod["metadata"]["labels"][index] for pod in found} == left


def test_a_run_is_gone_with_all_that_it_made_when_its_time_to_live_is_over(team: Team) -> None:
    team.submit("short", runPolicy={"ttlSecondsAfterFinished": SOON})
    ended = parse_time(team.reach("short", "Succeeded")["completionTime"])
    team.reach("short", "Gone")
    assert ended is not None
    assert now() >= ended + SOON
    wait_until(lambda: left_of(team, "short") == [], seconds=30, what="nothing of it", every=0.2)


def test_a_time_to_live_that_ends_while_no_operator_looks_is_made_up_for(
    team: Team, operator: Operator
) -> None:
    team.submit("unseen", runPolicy={"ttlSecondsAfterFinished": 2 * SOON})
    ended = team.reach("unseen", "Succeeded")["completionTime"]
    operator.stop()
    until_later(ended, 2 * SOON + 1)
    assert team.status("unseen")["phase"] == "Succeeded"
    operator.start()
    team.reach("unseen", "Gone")


def left_of(team: Team, name: str) -> list[str]:
    return team.kubectl("get", OURS, "-l", f"qwenft.dev/run={name}", "-o", "name").split()


@pytest.mark.parametrize("limit", [0, 1])
def test_restarts_end_at_the_backoff_limit(team: Team, limit: int) -> None:
    team.submit("again", runPolicy={"backoffLimit": limit})
    told = team.reach("again", "Failed", word=f"backoffLimit of {limit} restarts is used up")
    assert (told["attempt"], told.get("retries", 0)) == (limit + 1, limit)
    assert [item["exitCode"] for item in told["failures"]] == [69] * (limit + 1)


def test_an_evicted_pod_costs_a_restart_that_does_not_count(team: Team) -> None:
    """As `kubectl drain` does it: by the eviction API."""
    team.submit("evicted", runPolicy={"backoffLimit": 0})
    team.reach("evicted", "Starting", word="2 of 2 pods run")
    pod = team.pods("evicted")[1]["metadata"]["name"]
    eviction: dict[str, Any] = {
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": "team"},
    }  # fmt: skip
    team.api.call("POST", f"/api/v1/namespaces/team/pods/{pod}/eviction", eviction)
    told = team.reach("evicted", "Starting", word="2 of 2 pods run", attempt=2)
    assert (told["restarts"], told.get("retries", 0)) == (1, 0)
    assert told["failure"]["reason"] in DISRUPTED
    assert told["failure"]["pod"] == pod


def test_a_run_preempted_by_the_scheduler_waits_for_its_nodes_and_it_does_not_count(
    team: Team,
) -> None:
    team.submit("modest", runPolicy={"backoffLimit": 0}, resources=WHOLE_NODES)
    team.reach("modest", "Starting", word="2 of 2 pods run")
    first = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000,
             "metadata": {"name": "first"}}  # fmt: skip
    asks = {"resources": {"requests": {"cpu": "2"}}, "name": "c", "image": "any"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "important"},
           "spec": {"priorityClassName": "first", "containers": [asks]}}  # fmt: skip
    team.kubectl("create", "-f", "-", stdin=first)
    team.kubectl("create", "-f", "-", stdin=pod)
    told = team.reach("modest", "Pending", word="needs 2×2")
    assert told["failure"]["reason"] in DISRUPTED
    team.kubectl("wait", "--for=condition=Ready", "pod/important", "--timeout=60s")
    team.kubectl("delete", "pod", "important")
    told = team.reach("modest", "Starting", word="2 of 2 pods run", attempt=2)
    assert (told["restarts"], told.get("retries", 0)) == (1, 0)
