"""What counts as a sign of life, and what of the time in which there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qwenft_operator.observe import JobView, Observed, PodView
from qwenft_operator.run import Run
from qwenft_operator.situation import Situation
from qwenft_operator.vigil import PATROL, Vigil
from qwenft_plan.progress import Progress
from simulated.builders import run_body

JOB = JobView(name="tiny-1", uid="j1", attempt=1, plan="abc", pods=1, started_at=50.0)
POD = PodView(name="tiny-1-0", uid="p0", attempt=1, index=0, phase="Running", node="node-1")
REPORT = Progress(attempt=1, step=4, total_steps=9)
WRITTEN = {"attempt": 1, "step": 4, "totalSteps": 9}


def seen(**fields: Any) -> Situation:
    """Return an attempt with a pod that runs; ``fields`` are of what was observed."""
    body = run_body() | {"status": {"attempt": 1}}
    body["metadata"] |= {"uid": "u"}
    observed = Observed(**{"jobs": (JOB,), "pods": (POD,), "progress": REPORT} | fields)
    return Situation(run=Run.from_object(body), observed=observed, now=100.0)


def written(situation: Situation, progress: dict[str, Any]) -> Situation:
    """Return the situation after its report was written into the status."""
    status = dict(situation.run.status) | {"progress": progress}
    return replace(situation, run=replace(situation.run, status=status))


class Watch(Vigil):
    """A vigil of one run, by a clock that goes by hand."""

    def __init__(self) -> None:
        super().__init__(lambda: self.now)
        self.now = 7.0

    def after(self, seconds: float, situation: Situation) -> float:
        self.now += seconds
        return self.still_for("tiny", situation)


def test_the_time_between_looks_at_the_same_adds_up() -> None:
    watch = Watch()
    assert watch.after(0, seen()) == 0.0
    assert watch.after(30, seen()) == 30.0
    assert watch.after(45, seen()) == 75.0


@pytest.mark.parametrize(
    "change",
    [
        lambda: seen(progress=replace(REPORT, step=5)),
        lambda: seen(progress=replace(REPORT, validation_loss=1.0)),
        lambda: seen(jobs=(replace(JOB, started_at=60.0),)),
        lambda: seen(jobs=(replace(JOB, uid="j2"),)),
        lambda: seen(pods=(replace(POD, phase="Pending"),)),
        lambda: seen(pods=(replace(POD, waiting="ErrImagePull: gone"),)),
        lambda: seen(pods=(replace(POD, node=""),)),
        lambda: seen(pods=(POD, replace(POD, uid="p1"))),
        # Another process has heard of a step, and wrote it down.
        lambda: written(seen(), WRITTEN | {"step": 6}),
    ],
)
def test_whatever_gets_on_ends_the_stillness(change: Callable[[], Situation]) -> None:
    watch = Watch()
    watch.after(0, seen())
    watch.after(50, seen())
    assert watch.after(10, change()) == 0.0
    assert watch.after(10, change()) == 10.0


@pytest.mark.parametrize(
    "same",
    [
        lambda: seen(pods=(replace(POD, node_lost=True),)),
        lambda: seen(pods=(replace(POD, ready=True, deleting=True),)),
        # What this process heard and wrote down itself is no second sign.
        lambda: written(seen(), WRITTEN),
        lambda: replace(seen(), now=1e9),
    ],
)
def test_what_only_surrounds_a_run_is_no_sign_of_life(same: Callable[[], Situation]) -> None:
    watch = Watch()
    watch.after(0, seen())
    assert watch.after(10, same()) == 10.0


def test_a_message_that_changes_while_a_pod_waits_is_no_sign_of_life() -> None:
    watch = Watch()
    for message in ("ErrImagePull: gone", "ImagePullBackOff: Back-off", "ErrImagePull: gone"):
        still = watch.after(40, seen(pods=(replace(POD, waiting=message),)))
    assert still == 80.0


def test_an_old_attempt_s_report_says_nothing_of_the_new_one() -> None:
    watch = Watch()
    old = replace(REPORT, attempt=0)
    watch.after(0, seen(progress=None))
    assert watch.after(10, seen(progress=old)) == 10.0


def test_nobody_has_watched_between_two_looks_that_are_an_hour_apart() -> None:
    watch = Watch()
    watch.after(0, seen())
    watch.after(PATROL, seen())
    assert watch.after(3600, seen()) <= 3 * PATROL


def test_a_new_process_and_a_new_run_begin_to_watch_anew() -> None:
    watch = Watch()
    watch.after(0, seen())
    watch.after(100, seen())
    watch.forget("tiny")
    assert watch.after(100, seen()) == 0.0
    assert Watch().after(100, seen()) == 0.0
