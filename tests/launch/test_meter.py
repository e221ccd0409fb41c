"""What a run reports of itself: speed, remaining time and utilisation, measured."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launching.fleet import standing_as
from launching.plans import environ, make_plan, spec
from qwenft_plan.plan import Predicted
from qwenft_trainer import meter
from qwenft_trainer.meter import WINDOW_STEPS, Meter
from qwenft_trainer.report import Reporter
from qwenft_trainer.settings import read_settings

pytestmark = pytest.mark.torch


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Run:
    """A meter, its clock and its log."""

    def __init__(self, folder: Path, clock: Clock, **plan: Any) -> None:
        self.clock, self.log = clock, io.StringIO()
        settings = read_settings(environ(folder, make_plan(**plan), spec(folder)))
        self.result = folder / "result.json"
        reporter = Reporter({"QWENFT_RESULT_FILE": str(self.result)}, stream=self.log)
        self.digest = settings.plan.digest
        self.meter = Meter(settings, total=200, reporter=reporter)
        self.meter.start(step=0, validation_loss=8.0)

    def step(self, number: int, *, seconds: float, tokens: int = 100, **values: float) -> None:
        self.clock.now += seconds
        self.meter.stepped(step=number, tokens=tokens, **values)

    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@pytest.fixture(name="clock")
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(meter, "time", clock)
    with standing_as(0, make_plan()):
        yield clock


@pytest.fixture(name="run")
def start(tmp_path: Path, clock: Clock) -> Run:
    return Run(tmp_path, clock)


def test_the_first_report_of_a_resumed_run_names_its_checkpoint(
    tmp_path: Path, clock: Clock
) -> None:
    resumed = Run(tmp_path, clock)
    resumed.meter.start(step=44, validation_loss=8.0, checkpoint_step=44)
    (_, report) = resumed.reports()
    assert (report["step"], report["checkpointStep"]) == (44, 44)


def test_the_first_report_is_the_begin(run: Run) -> None:
    (first,) = run.reports()
    assert (first["attempt"], first["step"], first["totalSteps"]) == (1, 0, 200)
    assert first["validationLoss"] == 8.0
    assert first["planDigest"] == run.digest
    assert first["memoryGiB"] > 0.05
    assert "tokensPerSecond" not in first
    assert "estimatedRemainingSeconds" not in first


def test_a_step_is_reported_with_its_values_and_speed(run: Run) -> None:
    run.step(1, seconds=2.0, tokens=500, loss=7.5, gradient_norm=1.25, epoch=0.5)
    last = run.reports()[-1]
    assert last["tokensPerSecond"] == pytest.approx(250.0)
    assert last["estimatedRemainingSeconds"] == pytest.approx(2.0 * 199)
    assert (last["loss"], last["gradientNorm"], last["epoch"]) == (7.5, 1.25, 0.5)


def test_one_slow_step_changes_neither_speed_nor_remaining_time(run: Run) -> None:
    for number in range(1, 6):
        run.step(number, seconds=60.0 if number == 1 else 1.0)
    assert run.meter.tokens_per_second == pytest.approx(100.0)
    assert run.reports()[-1]["estimatedRemainingSeconds"] == pytest.approx(195.0)


def test_speed_follows_the_last_steps_only(run: Run) -> None:
    for number in range(1, WINDOW_STEPS + 1):
        run.step(number, seconds=1.0)
    for number in range(WINDOW_STEPS + 1, 2 * WINDOW_STEPS + 1):
        run.step(number, seconds=0.5)
    assert run.meter.tokens_per_second == pytest.approx(200.0)


def test_evaluation_and_saving_are_no_part_of_a_steps_time(run: Run) -> None:
    run.step(1, seconds=1.0)
    with run.meter.paused():
        run.clock.now += 500.0
    run.step(2, seconds=1.0)
    rates = [report["tokensPerSecond"] for report in run.reports()[1:]]
    assert rates == pytest.approx([100.0, 100.0])


def test_the_wait_for_rows_is_told_in_the_median(run: Run) -> None:
    for number, wait in enumerate((9.0, 0.25, 0.5, 0.25, 0.25), start=1):
        with run.meter.waiting():
            run.clock.now += wait
        run.step(number, seconds=1.0)
    assert run.reports()[1]["dataWaitSeconds"] == pytest.approx(9.0)
    assert run.reports()[-1]["dataWaitSeconds"] == pytest.approx(0.25)
    assert "dataWaitSeconds" not in run.reports()[0]


def test_the_plans_memory_stands_beside_the_measured(tmp_path: Path, clock: Clock) -> None:
    predicted = Predicted(memory_gib=61.5, tokens_per_second=1000.0, mfu=0.4)
    run = Run(tmp_path, clock, predicted=predicted)
    (first,) = run.reports()
    assert first["predictedMemoryGiB"] == 61.5
    assert first["memoryGiB"] != 61.5


def test_a_new_validation_loss_is_told_with_the_next_step(run: Run) -> None:
    run.meter.validated(5.5)
    run.step(1, seconds=1.0)
    assert run.reports()[-1]["validationLoss"] == 5.5


def test_values_that_a_step_does_not_bring_stay_from_the_one_before(run: Run) -> None:
    run.step(1, seconds=1.0, loss=7.0, checkpoint_step=1)
    run.step(2, seconds=1.0, loss=6.0)
    assert run.reports()[-1]["checkpointStep"] == 1
    assert run.reports()[-1]["loss"] == 6.0


def test_utilisation_is_the_predicted_one_at_the_measured_speed(
    tmp_path: Path, clock: Clock
) -> None:
    predicted = Predicted(memory_gib=1.0, tokens_per_second=400.0, mfu=0.4)
    run = Run(tmp_path, clock, predicted=predicted)
    run.step(1, seconds=1.0, tokens=100)
    assert run.reports()[-1]["mfu"] == pytest.approx(0.1)


def test_without_a_prediction_no_utilisation_is_made_up(run: Run) -> None:
    run.step(1, seconds=1.0)
    assert "mfu" not in run.reports()[-1]


def test_the_end_is_reported_and_the_result_handed_over(run: Run) -> None:
    run.step(200, seconds=1.0, loss=5.0)
    run.meter.finish({"steps": 200}, validation_loss=5.25, step=200, checkpoint_step=200)
    last = run.reports()[-1]
    assert (last["step"], last["validationLoss"], last["checkpointStep"]) == (200, 5.25, 200)
    assert last["loss"] == 5.0
    assert last["estimatedRemainingSeconds"] == 0.0
    assert json.loads(run.result.read_text()) == {"steps": 200}


def test_a_rank_without_a_reporter_measures_and_says_nothing(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_settings(environ(tmp_path, make_plan(), spec(tmp_path)))
    silent = Meter(settings, total=10, reporter=None)
    silent.start(step=0, validation_loss=None)
    clock.now += 2.0
    silent.stepped(step=1, tokens=100)
    silent.finish({"steps": 1}, validation_loss=None, step=1)
    assert silent.tokens_per_second == pytest.approx(50.0)
    assert capsys.readouterr().out == ""
