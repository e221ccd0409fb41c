"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["sparkline", "thin"]

_BLOCKS = "▁▂▃▄▅▆▇█"


def thin(values: Sequence[float], width: int) -> tuple[float, ...]:
    """Return at most ``width`` values, each the mean of an equal share of ``values`` in order."""
    if len(values) <= width:
        return tuple(values)
    edges = [index * len(values) // width for index in range(width + 1)]
    shares = [values[start:end] for start, end in pairwise(edges)]
    return tuple(sum(share) / len(share) for share in shares)


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw ``values``, the lowest at the bottom; non-finite ones are left out.

    An even curve is drawn in the middle: it neither rose nor fell.
    """
    columns = thin([value for value in values if math.isfinite(value)], width)
    if not columns:
        return ""
    low, high = min(columns), max(columns)
    if high == low:
        return _BLOCKS[len(_BLOCKS) // 2] * len(columns)
    scale = (len(_BLOCKS) - 1) / (high - low)
    return "".join(_BLOCKS[round((value - low) * scale)] for value in columns)
