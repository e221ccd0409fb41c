"""Bars made of parts as plain HTML: what memory holds, where the time of a step goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["STYLE", "Part", "Stack", "stack"]

STYLE = """
:root { --p0: #3e63dd; --p1: #c27803; --p2: #d6409f; --p3: #12a594; --p4: #30a46c;
  --p5: #8e4ec6; --p6: #8b8d98; --p7: #e5484d; }
.stack { margin: .25rem 0 .75rem; }
.stack .row { position: relative; display: flex; height: 1.4rem; margin: .3rem 0;
  background: var(--track); border-radius: 3px; overflow: hidden; }
.stack .row i { display: block; height: 100%; }
.stack .row i + i { border-left: 1px solid var(--paper); }
.stack .row.seen { height: .7rem; } .stack .row.seen i { background: var(--train); }
.stack ul { list-style: none; display: grid; padding: 0; margin: .4rem 0 0; gap: .1rem 1rem;
  grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
.stack li { display: flex; gap: .5rem; align-items: baseline; }
.stack li b { flex: none; width: .75rem; height: .75rem; border-radius: 2px; }
.stack li span { margin-left: auto; color: var(--dim); white-space: nowrap; }
"""
_COLOURS = 8
_SHOWN = 0.001
"""Share of the whole below which a part is left out: it could not be seen, nor would it matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One piece of a bar."""

    what: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """What was predicted, part by part, and what was measured of the whole."""

    parts: Sequence[Part]
    unit: str
    measured: float | None = None
    limit: float | None = None
    """What there is of it, which is the bar's full width; None: the longer bar is."""

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(part.value for part in self.parts)

    @property
    def width(self) -> float:
        """What the full width stands for."""
        return max(self.total, self.measured or 0.0, self.limit or 0.0)


def stack(drawn: Stack) -> str:
    """Draw the bar with a key that tells each part's amount; empty where there is nothing."""
    whole = drawn.total
    if whole <= 0:
        return ""
    shown = [
        (index % _COLOURS, part)
        for index, part in enumerate(drawn.parts)
        if part.value >= _SHOWN * whole
    ]
    pieces = "".join(
        f'<i style="width:{100 * part.value / drawn.width:.2f}%;background:var(--p{colour})"'
        f' title="{escape(_amount(part, drawn), quote=True)}"></i>'
        for colour, part in shown
    )
    key = "".join(
        f'<li><b style="background:var(--p{colour})"></b>{escape(part.what)}'
        f"<span>{_number(part.value, drawn)} {escape(drawn.unit)}"
        f" · {part.value / whole:.0%}</span></li>"
        for colour, part in shown
    )
    return (
        f'<div class="stack"><div class="row">{pieces}</div>{_seen(drawn)}'
        f"<div>{escape(_sum(drawn))}</div><ul>{key}</ul></div>"
    )


def _seen(drawn: Stack) -> str:
    if drawn.measured is None:
        return ""
    width = 100 * drawn.measured / drawn.width
    return f'<div class="row seen"><i style="width:{width:.2f}%"></i></div>'


def _sum(drawn: Stack) -> str:
    """Return the bars in words: the whole, what was measured below it, and what there is."""
    words = f"predicted {_number(drawn.total, drawn)} {drawn.unit}"
    if drawn.measured is not None:
        words += f", measured {_number(drawn.measured, drawn)} {drawn.unit} (thin bar)"
    if drawn.limit is not None:
        words += f"; the full width is the device's {_number(drawn.limit, drawn)} {drawn.unit}"
    return words


def _amount(part: Part, drawn: Stack) -> str:
    return f"{part.what}: {_number(part.value, drawn)} {drawn.unit}"


def _number(value: float, drawn: Stack) -> str:
    """Return as many decimals as give three digits of the bar's width, for all of its numbers."""
    decimals = max(0, 2 - math.floor(math.log10(drawn.width)))
    return f"{value:.{decimals}f}"
