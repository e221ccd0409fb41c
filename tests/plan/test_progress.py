"""Reports cross a trust boundary: what is not a finite number never reaches the status."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_plan.errors import SpecError
from qwenft_plan.progress import Progress

SMALLEST = {"attempt": 1, "step": 4, "totalSteps": 10}


def test_names_are_the_status_fields() -> None:
    report = Progress(
        attempt=2, step=5, total_steps=9, epoch=0.5, loss=1.25, memory_gib=3.5,
        tokens_per_second=10.0, checkpoint_step=4, plan_digest="abc",
    )  # fmt: skip
    assert report.to_mapping() == {
        "attempt": 2, "step": 5, "totalSteps": 9, "epoch": 0.5, "loss": 1.25, "memoryGiB": 3.5,
        "tokensPerSecond": 10.0, "checkpointStep": 4, "planDigest": "abc",
    }  # fmt: skip


def test_unknown_values_are_left_out_and_read_back_as_none() -> None:
    report = Progress.from_mapping(SMALLEST)
    assert report.loss is None
    assert report.to_mapping() == SMALLEST


def test_a_newer_trainers_fields_are_ignored() -> None:
    assert Progress.from_mapping(SMALLEST | {"flavour": "new"}).step == 4


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_a_report_without_its_position_is_refused(name: str) -> None:
    rest = {key: value for key, value in SMALLEST.items() if key != name}
    with pytest.raises(SpecError) as caught:
        Progress.from_mapping(rest)
    assert caught.value.path == name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss", math.nan), ("loss", math.inf), ("loss", 10**400), ("loss", "1"), ("loss", True),
        ("step", 1.5), ("step", -1), ("step", 2**60), ("checkpointStep", "4"), ("planDigest", 3),
        ("planDigest", "x" * 65), ("memoryGiB", []),
    ],
)  # fmt: skip
def test_a_hostile_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(SpecError) as caught:
        Progress.from_mapping(SMALLEST | {field: value})
    assert caught.value.path == field


_finite = st.floats(allow_nan=False, allow_infinity=False) | st.none()


@given(loss=_finite, norm=_finite, step=st.integers(min_value=0, max_value=2**53 - 1))
def test_a_report_survives_the_wire(loss: float | None, norm: float | None, step: int) -> None:
    report = Progress(attempt=1, step=step, total_steps=step, loss=loss, gradient_norm=norm)
    wire: Any = json.loads(json.dumps(report.to_mapping()))
    assert Progress.from_mapping(wire) == report
