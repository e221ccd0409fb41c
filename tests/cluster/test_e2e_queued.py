"""A run that trains in a queue: what a preemption leaves of it.

A **stand-in** plays Kueue here: it writes what Kueue writes, ``spec.suspend`` of the Job. That
Kueue itself writes so is tested in ``test_kueue.py``, where nothing trains.
"""

from __future__ import annotations

import json

import pytest

from endtoend.bench import Bench, in_phase
from endtoend.recovering import SECONDS, finish, recovering, saved
from qwenft_operator import names

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(1500)]


def set_suspended(bench: Bench, job: str, *, suspended: bool) -> None:
    """Write what Kueue writes to admit a Job or to preempt it."""
    patch = json.dumps({"spec": {"suspend": suspended}})
    bench.kubectl("patch", "job", job, "--type=merge", "-p", patch)


def test_a_preempted_run_saves_first_and_goes_on_from_there(
    bench: Bench, undisturbed: float
) -> None:
    body = recovering("queued")
    body["metadata"]["labels"] = {names.LABEL_QUEUE: "stand-in"}
    name = bench.submit(body)
    bench.wait(name, in_phase("Queued"), 120)
    set_suspended(bench, "queued-1", suspended=False)
    before = bench.wait(name, saved, SECONDS)["status"]["checkpoint"]["step"]
    set_suspended(bench, "queued-1", suspended=True)
    status = bench.wait(name, in_phase("Queued"), 120)["status"]
    assert "preempted by the queue stand-in" in status["message"]
    bench.until(
        lambda: not [each for each in bench.children(name) if each.startswith("pod/")],
        90, "the end of the pods",
    )  # fmt: skip
    set_suspended(bench, "queued-1", suspended=False)
    status = finish(bench, name, undisturbed)
    assert (status["attempt"], status.get("restarts", 0)) == (1, 0)
    assert "failure" not in status
    assert status["checkpoint"]["step"] >= before
