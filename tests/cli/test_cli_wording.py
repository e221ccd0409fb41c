from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_cli import wording


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (4.4, "4s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (60, "1m 00s"),
        (200, "3m 20s"),
        (3600, "1h 00m"),
        (3900, "1h 05m"),
        (86400, "1d 0h"),
        (183600, "2d 3h"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (1.31, "1.310"),
        (0.98, "0.980"),
        (12.345, "12.35"),
        (-1.5, "-1.500"),
        (123.456, "123.5"),
        (98000.4, "98000"),
        (1e-5, "1.0e-05"),
        (-2.5e-4, "-2.5e-04"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_four_digits(value: float, text: str) -> None:
    assert wording.number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_can_be_read_back_closely(value: float) -> None:
    assert float(wording.number(value)) == pytest.approx(value, rel=0.06, abs=1e-3)


def test_counts_part_their_thousands() -> None:
    assert wording.count(98000.4) == "98,000"


@pytest.mark.parametrize(
    "text",
    ["2026-11-24T09:00:00Z", "2026-11-24T09:00:00.000000Z", "2026-11-24T10:00:00+01:00",
     "2026-11-24T09:00:00"],
)  # fmt: skip
def test_every_spelling_of_a_kubernetes_time_is_read(text: str) -> None:
    assert wording.moment(text) == datetime(2026, 11, 24, 9, tzinfo=UTC)


def test_what_is_no_time_is_none() -> None:
    assert wording.moment("yesterday") is None


def test_an_age_counts_from_now() -> None:
    now = datetime(2026, 11, 24, 9, 1, 5, tzinfo=UTC)
    assert wording.age("2026-11-24T09:00:00Z", now) == "1m 05s"


def test_the_age_of_nothing_is_unknown() -> None:
    assert wording.age("", datetime(2026, 11, 24, tzinfo=UTC)) == "?"
