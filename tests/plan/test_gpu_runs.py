"""The planner's word beside what one GPU did: memory to a few percent, seconds to a tenth."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest

from accuracy.calibrate import loss
from gpu import page
from gpu.calibrate import STAGE, fitted, left_out, stepped
from gpu.runs import Run, read
from qwenft_plan.runtimes import OWN

RUNS = read()
NOW = [run for run in RUNS if not run.earlier]


def name(run: Run) -> str:
    words = [f"{key}={value}" for key, value in run.case.to_mapping().items()]
    return " ".join(words) + " earlier" * run.earlier


@pytest.mark.parametrize(
    "run", [run for run in RUNS if run in NOW or run.case.packing == 1], ids=name
)
def test_memory_is_predicted_to_a_few_percent(run: Run) -> None:
    expected = run.predicted()
    assert expected.total / run.total == pytest.approx(1.0, abs=0.06)
    limit = 0.05 if run.case.precision == "bf16" else 0.08
    assert expected.allocated / run.allocated == pytest.approx(1.0, abs=limit)


def test_memory_is_predicted_to_two_percent_in_the_median() -> None:
    assert median(abs(run.predicted().total / run.total - 1) for run in NOW) < 0.02
    assert median(abs(run.predicted().allocated / run.allocated - 1) for run in NOW) < 0.01


@pytest.mark.parametrize("run", NOW, ids=name)
def test_seconds_of_a_step_are_predicted_to_a_tenth(run: Run) -> None:
    assert run.predicted().seconds / run.seconds == pytest.approx(1.0, abs=0.1)


def test_hugging_faces_loop_is_slower_and_needs_more() -> None:
    for theirs in read(ours=False):
        (ours,) = [
            run for run in NOW if run.case.model == theirs.case.model and _alike(run, theirs)
        ]
        assert ours.tokens_per_second > theirs.tokens_per_second


def _alike(run: Run, theirs: Run) -> bool:
    return (run.case.packing, run.case.compile) == (
        1,
        False,
    ) and run.case.length == theirs.case.length


def test_the_page_tells_every_run_once_as_it_is() -> None:
    told = page.text()
    lines = [line for line in told.splitlines() if line.startswith("| Qwen")]
    assert len(lines) == len(read(ours=None))
    assert "77,7" in told
    assert "**not met**" in told


def test_the_page_of_accuracy_has_no_seconds_of_earlier_code() -> None:
    lines = [line for line in page.accuracy().splitlines() if line.startswith("| Qwen")]
    assert len(lines) == len(RUNS) - 1  # packed rows had another memory then
    assert sum(line.endswith("| – | – |") for line in lines) == len(lines) - len(NOW)


def test_the_constants_of_speed_are_what_the_fit_finds() -> None:
    for knob, value in fitted(stepped()).items():
        assert float(getattr(OWN, knob.field)) == pytest.approx(value, rel=0.02), knob


def test_a_fit_that_never_saw_a_model_is_within_a_tenth_of_it() -> None:
    errors = left_out(stepped())
    assert len(errors) > 3
    assert max(errors.values()) < 0.1, errors


def test_the_fit_brings_a_constant_that_was_turned_away_back() -> None:
    (knob,) = [each for each in STAGE.knobs if each.field == "traffic"]
    away = [replace(row, question=knob.turned(row.question, 12.0)) for row in stepped()]
    assert loss(away, fitted(away)) < loss(away, {}) / 4
