from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_cli import lines
from qwenft_plan.progress import Progress


def test_a_report_line_is_a_report() -> None:
    progress = Progress(attempt=1, step=2, total_steps=3, loss=1.5)
    assert lines.report(json.dumps(progress.to_mapping()) + "\n") == progress


@pytest.mark.parametrize(
    "line",
    [
        "",
        "epoch 0 step 1 loss 3.1",
        "{not json}",
        "[1, 2]",
        "{}",
        '{"step": 1}',
        '{"step": 1, "totalSteps": 2}',
        '{"attempt": 1, "step": "one", "totalSteps": 2}',
        '{"attempt": 1, "step": 1, "totalSteps": 2, "loss": NaN}',
        "[" * 5000,
        "{" * 5000 + "}",
    ],
)
def test_other_lines_are_no_report(line: str) -> None:
    assert lines.report(line) is None


def test_the_last_word_is_told_apart_from_reports() -> None:
    line = '{"exitCode": 65, "reason": "DatasetInvalid", "message": "no file"}'
    assert lines.ending(line) == json.loads(line)
    assert lines.report(line) is None


@pytest.mark.parametrize("line", ["", "Completed", '{"exitCode": 0}', '{"reason": "x"}', "[]"])
def test_other_lines_are_no_last_word(line: str) -> None:
    assert lines.ending(line) is None


def test_a_log_gives_its_reports_and_losses(report_lines: Callable[..., list[str]]) -> None:
    found = lines.reports(report_lines([5.0, 4.0]))
    assert [one.step for one in found] == [1, 2]
    assert lines.losses(found) == [5.0, 4.0]


def test_reports_without_a_loss_are_no_point_of_the_curve() -> None:
    assert lines.losses([Progress(attempt=1, step=0, total_steps=3)]) == []


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    assert lines.report(text) is None or isinstance(lines.report(text), Progress)
