"""Numbers and times as a person reads them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

__all__ = ["age", "count", "duration", "moment", "number"]

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_TINY = 1e-3
_THOUSAND = 1000


def duration(seconds: float) -> str:
    """Return ``4s``, ``3m 20s``, ``1h 05m`` or ``2d 3h``."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE:02d}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE:02d}m"
    return f"{whole // _DAY}d {whole % _DAY // _HOUR}h"


def number(value: float) -> str:
    """Return four significant digits (``1.310``, ``98000``, ``1.0e-05``)."""
    if not math.isfinite(value):
        return str(value)
    if value != 0 and abs(value) < _TINY:
        return f"{value:.1e}"
    if abs(value) >= _THOUSAND:
        return f"{value:.0f}"
    return f"{value:.{3 - _leading(value)}f}"


def _leading(value: float) -> int:
    return int(math.log10(abs(value))) if abs(value) >= 1 else 0


def count(value: float) -> str:
    """Return a whole number with thousands apart (``98,000``)."""
    return f"{round(value):,}"


def moment(text: str) -> datetime | None:
    """Read a Kubernetes time such as ``2026-11-24T09:00:00Z``; None if it is none."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def age(text: str, now: datetime) -> str:
    """Return how long ago ``text`` was, ``?`` when it is no time."""
    then = moment(text)
    return duration((now - then).total_seconds()) if then else "?"
