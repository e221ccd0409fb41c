"""Curves as SVG: a frame, the extremes in words, and one line a series."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from qwenft_cli.wording import number

__all__ = ["svg"]

_WIDTH, _HEIGHT = 640, 240
_LARGE = 1000.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 96, 12, 12, 28
"""The left margin holds seven letters of a phone's size."""

Series = Sequence[tuple[float, float]]


def svg(series: Mapping[str, Series], across: str, *, floor: float | None = None) -> str:
    """Draw the series (CSS class → points); non-finite points are left out.

    ``floor`` is a value that the upright axis reaches down to, whatever the points are.

    Returns an empty text when no point is left.
    """
    kept = {name: _finite(points) for name, points in series.items()}
    points = [point for some in kept.values() for point in some]
    if not points:
        return ""
    span_x = _span([x for x, _ in points])
    span_y = _span([*(y for _, y in points), *(() if floor is None else (floor,))])
    lines = "".join(
        f'<polyline class="{escape(name)}" points="{_path(some, span_x, span_y)}"/>'
        for name, some in kept.items()
        if some
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="curve over {escape(across)}">'
        f"{_frame(span_x, span_y, across)}{lines}</svg>"
    )


def _told(value: float) -> str:
    """Return a whole number whole, a large one without decimals, any other as elsewhere."""
    whole = value == int(value) or abs(value) >= _LARGE
    return f"{value:,.0f}" if whole else number(value)


def _finite(points: Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the greatest value, apart by a little when they are equal."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _path(points: Series, span_x: tuple[float, float], span_y: tuple[float, float]) -> str:
    return " ".join(f"{_x(x, span_x):.1f},{_y(y, span_y):.1f}" for x, y in points)


def _x(value: float, span: tuple[float, float]) -> float:
    return _LEFT + (value - span[0]) / (span[1] - span[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, span: tuple[float, float]) -> float:
    return _HEIGHT - _BOTTOM - (value - span[0]) / (span[1] - span[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _frame(span_x: tuple[float, float], span_y: tuple[float, float], across: str) -> str:
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    return (
        f'<path class="axis" fill="none" d="M{_LEFT} {_TOP}V{floor}H{right}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 10}" text-anchor="end">{_told(span_y[1])}</text>'
        f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">{_told(span_y[0])}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{escape(across)} {_told(span_x[0])}</text>'
        f'<text x="{right}" y="{_HEIGHT - 8}" text-anchor="end">{_told(span_x[1])}</text>'
    )
