"""The growth from few runs to many, drawn as an SVG of two lines."""

from __future__ import annotations

from typing import Any

__all__ = ["growth"]

_SVG = "http://www.w3.org/2000/svg"
_FONT = 'font-family="sans-serif" font-size="12"'

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 56, 16, 16, 44
_LINES = (
    ("seconds_to_all_pods", "until all pods exist", "#0072b2"),
    ("cpu_seconds", "CPU of the operator", "#d55e00"),
)


def growth(points: list[dict[str, Any]]) -> str:
    """Return the picture; each point has ``runs``, ``seconds_to_all_pods`` and ``cpu_seconds``."""
    most = max(each["runs"] for each in points)
    highest = max(each[field] for each in points for field, _, _ in _LINES) or 1.0
    parts = [
        f'<svg xmlns="{_SVG}" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_FONT}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        *_axes(most, highest),
    ]
    for number, (field, title, colour) in enumerate(_LINES):
        places = [_place(each["runs"] / most, each[field] / highest) for each in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        y = _TOP + 16 * (number + 1)
        parts.append(f'<text x="{_LEFT + 12}" y="{y}" fill="{colour}">{title}, s</text>')
    return "\n".join([*parts, "</svg>\n"])


def _place(across: float, up: float) -> tuple[float, float]:
    x = _LEFT + across * (_WIDTH - _LEFT - _RIGHT)
    return x, _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)


def _axes(most: float, highest: float) -> list[str]:
    """Return both axes with their ends and halves named."""
    (left, floor), (right, ceiling) = _place(0, 0), _place(1, 1)
    path = f"M{left} {ceiling}V{floor}H{right}"
    parts = [f'<path d="{path}" fill="none" stroke="black"/>']
    for share in (0.0, 0.5, 1.0):
        x, y = _place(share, share)
        parts.append(f'<text x="{x:.0f}" y="{floor + 16:.0f}" text-anchor="middle">'
                     f"{share * most:g}</text>")  # fmt: skip
        parts.append(f'<text x="{left - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">'
                     f"{share * highest:.3g}</text>")  # fmt: skip
    middle = (left + right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">runs</text>')
    return parts
