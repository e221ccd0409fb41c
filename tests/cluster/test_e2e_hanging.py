"""Ranks that stand still are named: by their launcher, by a peer, by the operator at the last."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from embedded import layout
from endtoend.bench import Bench
from endtoend.nodes import launchers_of, processes_of, rank_of
from endtoend.recovering import finish, recovering, start
from endtoend.stage import install

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(1500)]

OPERATOR_SECONDS = 40
"""Without a step: 900 s where nobody waits for a test."""
STOPPED_SECONDS = 60
"""For which a rank with peers may be stopped, by default: they wait for twice as long."""
ALONE = {"nodes": {"min": 1, "max": 1}}


@pytest.fixture(scope="module")
def impatient(bench: Bench) -> Iterator[Bench]:
    """Return the bench with an operator that does not wait for long."""
    log = layout.from_environment().logs / "e2e.log"
    install(bench.platform, bench.images, log, patience={"stepSeconds": OPERATOR_SECONDS})
    yield bench
    install(bench.platform, bench.images, log)


def stop(*processes: int) -> None:
    """Stop processes as a debugger does: they are there and do nothing."""
    for each in processes:
        os.kill(each, signal.SIGSTOP)


def pods(bench: Bench, name: str) -> dict[int, tuple[str, str]]:
    """Return each completion index' pod and node; only the first attempt has any yet."""
    found = {}
    for pod in bench.access.pods(name):
        index = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
        found[int(index)] = (pod["metadata"]["name"], pod["spec"]["nodeName"])
    return found


def the_failure(bench: Bench, name: str, seconds: float) -> dict[str, Any]:
    """Return the one failure of a run that went on to the end that it would have had anyway."""
    status = finish(bench, name, seconds)
    assert (status["attempt"], status["restarts"], status["retries"]) == (2, 1, 1)
    (failure,) = status["failures"]
    assert failure["attempt"] == 1
    reason = failure["reason"]
    (told,) = (text for _, why, text in bench.events(name) if why == reason)
    assert "goes on from the last checkpoint" in told
    if "pod" in failure:
        assert f"pod {failure['pod']} on {failure['node']}" in told
    if "rank" in failure:
        assert f"{reason} at rank {failure['rank']}" in told
    return dict(failure)


def whereabouts(failure: dict[str, Any]) -> tuple[int | None, tuple[str, str]]:
    return failure.get("rank"), (failure["pod"], failure["node"])


def test_a_frozen_rank_is_named_by_its_launcher_with_its_pod_and_node(
    bench: Bench, undisturbed: float
) -> None:
    """Not the peer is, which waits for it in the other pod; nobody is more impatient than usual."""
    name = start(bench, recovering("thawing"))
    uid, where = bench.access.run(name)["metadata"]["uid"], pods(bench, name)
    frozen = next(pid for pid in processes_of(uid, 1) if rank_of(pid) == len(where) - 1)
    rank = rank_of(frozen)
    stop(frozen)
    failure = the_failure(bench, name, undisturbed)
    assert (failure["exitCode"], failure["reason"]) == (69, "Hung")
    assert whereabouts(failure) == (rank, where[rank])
    assert f"the process of rank {rank} is stopped" in failure["message"]
    assert f"limit {STOPPED_SECONDS} s" in failure["message"]


def test_the_peer_of_a_frozen_pod_says_that_it_waits(impatient: Bench, undisturbed: float) -> None:
    """Nobody in a frozen pod can tell. That the peer shows its stack is tested where it is made."""
    name = start(impatient, recovering("waiting"))
    uid, where = impatient.access.run(name)["metadata"]["uid"], pods(impatient, name)
    frozen = next(pid for pid in processes_of(uid, 1) if rank_of(pid) == 1)
    stop(*launchers_of(uid, 1, node_rank=1), frozen)
    failure = the_failure(impatient, name, undisturbed)
    assert (failure["exitCode"], failure["reason"]) == (69, "CommunicationFailure")
    assert whereabouts(failure) == (0, where[0])
    assert "it waits inside torch" in failure["message"]


def test_the_only_pod_of_a_run_is_named_by_the_operator_when_all_of_it_is_frozen(
    impatient: Bench, undisturbed: float
) -> None:
    """Its watchdog and its launcher are frozen with it: nobody knows but the operator."""
    name = start(impatient, recovering("frozen", resources=ALONE))
    uid, where = impatient.access.run(name)["metadata"]["uid"], pods(impatient, name)
    stop(*launchers_of(uid, 1, node_rank=0), *processes_of(uid, 1))
    failure = the_failure(impatient, name, undisturbed)
    assert failure["reason"] == "Hung"
    assert "exitCode" not in failure
    assert failure["step"] >= 2
    assert whereabouts(failure)[1] == where[0]
    assert f"limit {OPERATOR_SECONDS} s" in failure["message"]
    assert "is its only one" in failure["message"]
