"""A log-log scatter of predicted over measured values as SVG, without any library."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["scatter"]

_SIZE, _MARGIN = 420, 52
_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2",
            "#97bbf5", "#9c6b4e", "#9498a0", "#1b4f72", "#7d6608")  # fmt: skip

Point = tuple[float, float]


def scatter(title: str, axis: str, series: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """Return an SVG of (measured, predicted) points by series, with the diagonal."""
    values = [value for _, points in series for point in points for value in point]
    low, high = math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.05

    def at(value: float) -> float:
        return (math.log10(value) - low) / (high - low) * (_SIZE - 2 * _MARGIN)

    parts = [_frame(title, axis), *_ticks(low, high, at), _diagonal()]
    for index, (name, points) in enumerate(series):
        colour = _COLOURS[index % len(_COLOURS)]
        dots = "".join(
            f'<circle cx="{_MARGIN + at(x):.1f}" cy="{_SIZE - _MARGIN - at(y):.1f}" r="2.2"/>'
            for x, y in points
        )
        parts.append(f'<g fill="{colour}" fill-opacity="0.55">{dots}</g>')
        top = _MARGIN + 14 * index
        parts.append(
            f'<g font-size="10"><circle cx="{_SIZE - 34}" cy="{top - 3}" r="3.5" fill="{colour}"/>'
            f'<text x="{_SIZE - 26}" y="{top}">{name}</text></g>'
        )
    return _svg(parts)


def _svg(parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIZE + 170} {_SIZE}" '
        f'font-family="sans-serif">\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n'
        "</svg>\n"
    )


def _frame(title: str, axis: str) -> str:
    side = _SIZE - 2 * _MARGIN
    return (
        f'<text x="{_MARGIN}" y="30" font-size="14" font-weight="600">{title}</text>'
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{side}" height="{side}" fill="none" '
        'stroke="#999"/>'
        f'<text x="{_SIZE / 2}" y="{_SIZE - 12}" font-size="11" text-anchor="middle">'
        f"measured, {axis}</text>"
        f'<text transform="translate(14 {_SIZE / 2}) rotate(-90)" font-size="11" '
        f'text-anchor="middle">predicted, {axis}</text>'
    )


def _ticks(low: float, high: float, at: object) -> list[str]:
    assert callable(at)
    found = []
    for power in range(math.ceil(low), math.floor(high) + 1):
        place = at(10.0**power)
        found.append(
            f'<g font-size="9" fill="#555"><text x="{_MARGIN + place:.1f}" y="{_SIZE - 38}" '
            f'text-anchor="middle">{10.0**power:g}</text>'
            f'<text x="{_MARGIN - 6}" y="{_SIZE - _MARGIN - place + 3:.1f}" text-anchor="end">'
            f"{10.0**power:g}</text></g>"
        )
    return found


def _diagonal() -> str:
    low, high = _MARGIN, _SIZE - _MARGIN
    return f'<line x1="{low}" y1="{high}" x2="{high}" y2="{low}" stroke="#bbb"/>'
