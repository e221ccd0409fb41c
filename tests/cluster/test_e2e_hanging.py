"""Ranks that stand still: noticed from within where a peer can tell, else by the operator."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from embedded import layout
from endtoend.bench import Bench
from endtoend.nodes import processes_of
from endtoend.recovering import finish, recovering, start
from endtoend.stage import install

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(1500)]

OPERATOR_SECONDS, TRAINER_SECONDS = 40, 15
"""Without a step, and without a sign of life: 900 and 600 s where nobody waits for a test."""
ALONE = {"nodes": {"min": 1, "max": 1}}
SECRET = "impatient"  # noqa: S105 - a name


@pytest.fixture(scope="module")
def impatient(bench: Bench) -> Iterator[Bench]:
    """Return the bench with an operator and a trainer that do not wait for long."""
    log = layout.from_environment().logs / "e2e.log"
    install(bench.platform, bench.images, log, patience={"stepSeconds": OPERATOR_SECONDS})
    # Users may set no such variable by name.
    text = {"QWENFT_STALL_SECONDS": str(TRAINER_SECONDS)}
    bench.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": text}
    )
    yield bench
    install(bench.platform, bench.images, log)


def freeze(bench: Bench, name: str, count: int) -> None:
    """Stop so many ranks of the first attempt as a debugger does: they are there and do nothing."""
    uid = bench.access.run(name)["metadata"]["uid"]
    ranks = processes_of(uid, 1)
    assert len(ranks) >= count
    for rank in ranks[:count]:
        os.kill(rank, signal.SIGSTOP)


def test_a_run_whose_only_rank_is_frozen_goes_on_from_its_checkpoint(
    impatient: Bench, undisturbed: float
) -> None:
    """Its watchdog is frozen with it, and there is no peer: nobody knows but the operator."""
    name = start(impatient, recovering("frozen", resources=ALONE))
    freeze(impatient, name, 1)
    status = finish(impatient, name, undisturbed)
    (failure,) = status["failures"]
    assert (failure["reason"], failure["attempt"]) == ("Hung", 1)
    assert f"limit {OPERATOR_SECONDS} s" in failure["message"]
    assert (status["attempt"], status["restarts"], status["retries"]) == (2, 1, 1)
    told = [text for kind, reason, text in impatient.events(name) if reason == "Hung"]
    assert len(told) == 1
    assert "goes on from the last checkpoint" in told[0]


def test_the_peer_of_a_frozen_rank_ends_with_what_it_waited_for_and_the_run_goes_on(
    impatient: Bench, undisturbed: float
) -> None:
    """That its log and its message hold the stacks is tested where they are made."""
    body = recovering("thawing", trainer={"envFrom": [{"secretRef": {"name": SECRET}}]})
    name = start(impatient, body)
    freeze(impatient, name, 1)
    status = finish(impatient, name, undisturbed)
    (failure,) = status["failures"]
    assert (failure["exitCode"], failure["reason"]) == (69, "CommunicationFailure")
    assert "no sign of life for" in failure["message"]
    assert (status["attempt"], status["restarts"], status["retries"]) == (2, 1, 1)
