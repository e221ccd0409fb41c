from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qwenft_cli.snapshot import Snapshot, latest_event, of_run, with_report
from qwenft_plan.progress import Progress

Make = Callable[..., dict[str, Any]]


def test_a_run_without_status_is_pending(make_run: Make) -> None:
    snapshot = of_run(make_run())
    assert (snapshot.phase, snapshot.attempt, snapshot.progress) == ("Pending", 1, None)
    assert not snapshot.finished


@pytest.mark.parametrize(
    ("phase", "finished"),
    [("Training", False), ("Suspended", False), ("Succeeded", True), ("Failed", True)],
)
def test_a_run_is_finished_when_it_cannot_change_any_more(
    make_run: Make,
    phase: str,
    finished: bool,  # noqa: FBT001 - a table
) -> None:
    assert of_run(make_run(phase=phase)).finished is finished


def test_the_status_is_read_whole(make_run: Make) -> None:
    snapshot = of_run(
        make_run(
            phase="Training",
            attempt=2,
            restarts=1,
            plan={"summary": "2×1 CPU", "reason": "fast", "predicted": {"memoryGiB": 0.5}},
            measured={"tokensPerSecond": 900.0},
            progress={"step": 3, "totalSteps": 10, "loss": 2.5},
            checkpoint={"step": 2},
            workers={"ready": "2/2"},
            startTime="2026-01-02T03:04:05Z",
        )
    )
    assert snapshot.plan == "2×1 CPU"
    assert snapshot.predicted == {"memoryGiB": 0.5}
    assert snapshot.workers_ready == "2/2"
    assert snapshot.progress == Progress(
        attempt=2, step=3, total_steps=10, loss=2.5, tokens_per_second=900.0, checkpoint_step=2
    )


def test_a_progress_that_has_only_begun_is_enough(make_run: Make) -> None:
    progress = of_run(make_run(progress={"step": 1})).progress
    assert progress is not None
    assert (progress.step, progress.total_steps) == (1, 0)


def test_without_a_plan_the_operator_s_message_says_why(make_run: Make) -> None:
    assert of_run(make_run(message="needs 91 GiB of 73")).reason == "needs 91 GiB of 73"


def test_the_plan_s_own_reason_comes_first(make_run: Make) -> None:
    plan = {"summary": "2×1 CPU", "reason": "fastest"}
    assert of_run(make_run(plan=plan, message="attempt 1 trains")).reason == "fastest"


def test_a_failure_is_read_with_what_is_known_of_it(make_run: Make) -> None:
    failure = of_run(make_run(failure={"exitCode": 65, "message": "no file"})).failure
    assert failure is not None
    assert (failure.reason, failure.exit_code, failure.rank) == ("Unknown", 65, None)


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ({"running": {}}, "Running"),
        ({"waiting": {"reason": "ImagePullBackOff"}}, "ImagePullBackOff"),
        ({"terminated": {"reason": "OOMKilled"}}, "OOMKilled"),
        ({"terminated": {"exitCode": 1}}, "Terminated"),
    ],
)
def test_a_worker_shows_what_its_container_does(
    make_run: Make, make_pod: Make, state: dict[str, Any], shown: str
) -> None:
    snapshot = of_run(make_run(), pods=[make_pod(0, state=state)])
    assert [(w.node, w.state) for w in snapshot.workers] == [("node-0", shown)]


def test_a_pod_without_a_node_says_so(make_run: Make) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Pending"}}
    worker = of_run(make_run(), pods=[pod]).workers[0]
    assert (worker.node, worker.state) == ("(no node yet)", "Pending")


def test_the_newest_event_is_the_last(make_event: Make) -> None:
    assert latest_event([make_event("A", "one"), make_event("B", "two")]) == "B: two"
    assert latest_event([]) == ""


def test_a_report_moves_a_local_run_on() -> None:
    report = Progress(attempt=1, step=4, total_steps=9, loss=1.0, tokens_per_second=50.0)
    after = with_report(Snapshot(name="a", phase="Starting"), report)
    assert after.phase == "Training"
    assert after.measured == {"tokensPerSecond": 50.0}
    assert after.progress == report


def test_the_last_validation_loss_stays_in_sight() -> None:
    first = Progress(attempt=1, step=1, total_steps=9, validation_loss=3.0)
    second = Progress(attempt=1, step=2, total_steps=9)
    after = with_report(with_report(Snapshot(name="a", phase="Starting"), first), second)
    assert after.progress is not None
    assert (after.progress.step, after.progress.validation_loss) == (2, 3.0)
