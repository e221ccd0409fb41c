"""The body of a report: the Kubeflow trainer's fields, and the whole progress beside them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from qwenft_plan.progress import Progress
from qwenft_trainer.report import body

NOW = datetime(2030, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)


def status(**fields: Any) -> dict[str, Any]:
    """Return the Kubeflow part of a report."""
    smallest = {"attempt": 1, "step": 0, "total_steps": 10}
    found = body(Progress(**(smallest | fields)), now=NOW)["trainerStatus"]
    assert isinstance(found, dict)
    return found


def test_a_report_has_the_two_parts_of_the_contract() -> None:
    progress = Progress(attempt=2, step=5, total_steps=20, loss=1.5, plan_digest="abc")
    assert body(progress, now=NOW) == {
        "trainerStatus": {
            "metrics": [{"name": "loss", "value": "1.5"}],
            "lastUpdatedTime": "2030-01-02T03:04:05Z",
            "progressPercentage": 25,
        },
        "qwenft": {"attempt": 2, "step": 5, "totalSteps": 20, "loss": 1.5, "planDigest": "abc"},
    }


@pytest.mark.parametrize(
    ("step", "total", "percentage"),
    [(0, 10, 0), (1, 3, 33), (2, 3, 66), (99, 100, 99), (199, 200, 99), (200, 200, 100),
     (7, 5, 100)],
)  # fmt: skip
def test_the_percentage_is_100_only_at_the_end(step: int, total: int, percentage: int) -> None:
    assert status(step=step, total_steps=total)["progressPercentage"] == percentage


def test_a_run_that_does_not_know_its_length_reports_no_percentage() -> None:
    assert "progressPercentage" not in status(step=4, total_steps=0)


@pytest.mark.parametrize(("seconds", "told"), [(12.4, 12), (12.6, 13), (0.0, 0), (-3.0, 0)])
def test_the_remaining_time_is_told_in_whole_seconds_and_never_negative(
    seconds: float, told: int
) -> None:
    assert status(estimated_remaining_seconds=seconds)["estimatedRemainingSeconds"] == told


def test_an_unknown_remaining_time_is_left_out() -> None:
    assert "estimatedRemainingSeconds" not in status()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("epoch", 0.5, "0.5"),
        ("loss", 0.0, "0.0"),
        ("validation_loss", 5.41, "5.41"),
        ("gradient_norm", 1e-9, "1e-09"),
        ("learning_rate", 2e-5, "2e-05"),
        ("tokens_per_second", 1234.5, "1234.5"),
        ("memory_gib", 1.25, "1.25"),
        ("mfu", 0.41, "0.41"),
    ],
)
def test_each_measured_value_is_a_metric_whose_value_is_text(
    name: str, value: float, text: str
) -> None:
    assert status(**{name: value})["metrics"] == [{"name": name, "value": text}]


def test_what_was_not_measured_is_no_metric() -> None:
    assert status()["metrics"] == []
