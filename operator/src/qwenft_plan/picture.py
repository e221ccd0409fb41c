"""A planned run as stacked bars: memory by part and step time by part, winner and runners-up.

Plain SVG, written here so that the bare install can draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from html import escape

from qwenft_plan.explain import summary
from qwenft_plan.hardware import GIB
from qwenft_plan.planner import Planned
from qwenft_plan.search import Judged

__all__ = ["picture"]

_COLOURS = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#9c6b4e",
)  # fmt: skip
_LEFT, _BAR, _ROW, _WIDE = 20, 16, 44, 640

Part = tuple[str, float]


def picture(planned: Planned) -> str:
    """Return an SVG with one bar of memory and one of step time for each plan."""
    shown = [planned.chosen, *(a.judged for a in planned.alternatives if a.judged is not None)]
    memory = [(_name(item), _parts(item.memory, GIB)) for item in shown]
    seconds = [(_name(item), _parts(item.time, 1.0)) for item in shown]
    limit = planned.chosen.work.device.memory / GIB
    height = 2 * (90 + _ROW * len(shown))
    upper = _chart("Peak memory per device, GiB", memory, limit, top=30)
    lower = _chart("Optimizer step, seconds", seconds, None, top=30 + height // 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE + 80} {height}" '
        'font-family="sans-serif" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{upper}\n{lower}\n</svg>\n'
    )


def _name(item: Judged) -> str:
    return summary(item)


def _parts(parts: object, unit: float) -> list[Part]:
    names = [field.name for field in fields(parts)]  # type: ignore[arg-type]
    return [(name, getattr(parts, name) / unit) for name in names]


def _chart(
    title: str, bars: Sequence[tuple[str, list[Part]]], limit: float | None, *, top: int
) -> str:
    longest = max([sum(value for _, value in parts) for _, parts in bars] + [limit or 0.0])
    scale = _WIDE / longest
    lines = [f'<text x="{_LEFT}" y="{top}" font-size="14" font-weight="600">{title}</text>']
    lines.append(_legend([name for name, _ in bars[0][1]], top + 18))
    for index, (name, parts) in enumerate(bars):
        lines.append(_stack(name, parts, scale, top + 36 + _ROW * index))
    if limit is not None:
        place = _LEFT + limit * scale
        bottom = top + 36 + _ROW * len(bars)
        lines.append(
            f'<line x1="{place:.1f}" y1="{top + 30}" x2="{place:.1f}" y2="{bottom}" '
            'stroke="#b00" stroke-dasharray="4 3"/>'
        )
    return "\n".join(lines)


def _legend(names: Sequence[str], y: int) -> str:
    parts, x = [], _LEFT
    for index, name in enumerate(names):
        colour = _COLOURS[index % len(_COLOURS)]
        parts.append(
            f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{x + 13}" y="{y}">{name}</text>'
        )
        x += 26 + 7 * len(name)
    return "".join(parts)


def _stack(name: str, parts: Sequence[Part], scale: float, y: int) -> str:
    found = [f'<text x="{_LEFT}" y="{y + 10}" fill="#333">{escape(name)}</text>']
    x = float(_LEFT)
    for index, (part, value) in enumerate(parts):
        width = value * scale
        if width >= 0.05:  # noqa: PLR2004 - thinner than anything visible
            found.append(
                f'<rect x="{x:.1f}" y="{y + 14}" width="{width:.1f}" height="{_BAR}" '
                f'fill="{_COLOURS[index % len(_COLOURS)]}">'
                f"<title>{part} {value:.2f}</title></rect>"
            )
        x += width
    total = sum(value for _, value in parts)
    found.append(f'<text x="{x + 4:.1f}" y="{y + 26}">{total:.4g}</text>')
    return "".join(found)
