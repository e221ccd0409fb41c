from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_cli.sparkline import sparkline, thin

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def test_a_falling_curve_falls() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"


def test_a_rising_curve_rises() -> None:
    assert sparkline([0, 1], 8) == "▁█"


def test_an_even_curve_is_neither_at_the_top_nor_at_the_bottom() -> None:
    assert sparkline([3, 3, 3], 8) == "▅▅▅"


def test_without_values_there_is_nothing_to_draw() -> None:
    assert sparkline([], 8) == ""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_left_out(bad: float) -> None:
    assert sparkline([1, bad, 2], 8) == "▁█"


def test_only_bad_values_draw_nothing() -> None:
    assert sparkline([math.nan], 8) == ""


def test_long_curves_are_thinned_by_means() -> None:
    assert thin([1, 3, 5, 7], 2) == (2, 6)


def test_short_curves_stay_as_they_are() -> None:
    assert thin([1, 2], 5) == (1, 2)


@given(st.lists(finite, min_size=1, max_size=200), st.integers(1, 40))
def test_the_width_is_never_exceeded(values: list[float], width: int) -> None:
    assert 1 <= len(sparkline(values, width)) <= width


@given(st.lists(finite, min_size=1, max_size=200), st.integers(1, 40))
def test_means_stay_within_the_values(values: list[float], width: int) -> None:
    slack = 1e-6 * max(1.0, *map(abs, values))
    for mean in thin(values, width):
        assert min(values) - slack <= mean <= max(values) + slack
