"""Bars and a time line as plain HTML: widths in per cent, so that a phone can show the words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["STYLE", "Pair", "Span", "bars", "timeline"]

STYLE = """
.bars { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .8rem; }
.bars .what { grid-column: 1 / 3; margin-top: .5rem; } .bars .who { color: var(--dim); }
.bar { display: flex; white-space: nowrap; align-items: center; gap: .5rem; }
.bar i { display: block; flex: none; height: .9rem; min-width: 2px; border-radius: 2px; }
.predicted i { background: var(--line); outline: 1px solid var(--dim); outline-offset: -1px; }
.measured i { background: var(--train); }
.time { display: flex; gap: 2px; margin: .5rem 0; }
.time b { height: 1.4rem; min-width: 4px; border-radius: 2px; background: var(--train); }
.time b.failed { background: var(--held); }
.ends { display: flex; flex-wrap: wrap; justify-content: space-between; color: var(--dim); }
ol.attempts { padding-left: 1.2rem; margin: 0; } ol.attempts .failed { color: var(--held); }
"""
_LARGE = 1000.0
_FULL = 44.0
"""Per cent of the width that the longest bar takes: the number stands beside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One quantity as predicted and as measured; None where not known."""

    what: str
    predicted: float | None
    measured: float | None
    unit: str

    @property
    def verdict(self) -> str:
        """How far the measurement is from the prediction, in words."""
        if not self.predicted or self.measured is None:
            return ""
        off = self.measured / self.predicted - 1.0
        return f"measured {abs(off):.0%} {'above' if off >= 0 else 'below'} the prediction"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One attempt on the time line."""

    seconds: float
    label: str
    cause: str = ""
    """Why it ended; empty for the attempt that did not fail."""


def bars(pairs: Sequence[Pair]) -> str:
    """Draw predicted above measured for each quantity on the quantity's own scale."""
    parts = []
    for pair in pairs:
        known = [value for value in (pair.predicted, pair.measured) if value is not None]
        if not known:
            continue
        longest = max(known) or 1.0
        what = f"{pair.what}: {pair.verdict}" if pair.verdict else pair.what
        parts.append(f'<div class="what">{escape(what)}</div>')
        for who, value in (("predicted", pair.predicted), ("measured", pair.measured)):
            if value is not None:
                parts.append(_bar(who, value, longest, pair.unit))
    return f'<div class="bars">{"".join(parts)}</div>' if parts else ""


def _bar(who: str, value: float, longest: float, unit: str) -> str:
    width = _FULL * value / longest
    text = f"{value:.1%}" if unit == "%" else f"{_told(value)} {unit}"
    return (
        f'<div class="who">{who}</div>'
        f'<div class="bar {who}"><i style="width:{width:.1f}%"></i>{escape(text)}</div>'
    )


def _told(value: float) -> str:
    return f"{value:,.0f}" if value >= _LARGE else f"{value:.4g}"


def timeline(spans: Sequence[Span], ends: Sequence[str] = ()) -> str:
    """Draw the attempts one after the other, each as wide as it took long, and list them below.

    ``ends`` are the times at which the strip begins and ends.
    """
    if not spans:
        return ""
    strip = "".join(
        f'<b{_failed(span)} style="flex-grow:{max(span.seconds, 0.0):.1f}"'
        f' title="{escape(span.label, quote=True)}"></b>'
        for span in spans
    )
    entries = "".join(
        f"<li{_failed(span)}>{escape(span.label)}"
        f"{': ' + escape(span.cause) if span.cause else ''}</li>"
        for span in spans
    )
    times = "".join(f"<span>{escape(end)}</span>" for end in ends)
    strips = f'<div class="time">{strip}</div><div class="ends">{times}</div>'
    return f'{strips}<ol class="attempts">{entries}</ol>'


def _failed(span: Span) -> str:
    return ' class="failed"' if span.cause else ""
