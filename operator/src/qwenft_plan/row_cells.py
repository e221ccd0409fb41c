"""What the cells of a table of runs hold, before anybody asks what they mean.

Tables come through spreadsheets and data frames: an empty cell may be `NaN`, `-` or `n/a`, a whole
number `8.0`, `8,192` or `1e6`. Each reader takes the row and the column; a bad cell raises
:class:`~qwenft_plan.errors.SpecError` naming the column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from qwenft_plan.errors import SpecError

__all__ = ["billions", "count", "says", "text"]

_MOST = 10_000_000
_EMPTY = frozenset(
    {"", "-", "--", "–", "—", "?", "n/a", "n.a.", "na", "nan", "null", "tbd", "unknown"}
)
_REMARK = r"(?=\s*\(|\s+(?:tokens|samples|sequences|seqs|gpus|layers|nodes)\b|$)"
_WHOLE = re.compile(
    rf"(?i)(\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.0+)?{_REMARK}|\d+(?:\.\d+)?e\+?\d{{1,2}}$"
)
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([bBmM]?)")
_DENIED_BEFORE = re.compile(r"\b(?:no|not|non|without|w/o|disabled?)[-_ ]+(?:\w+[-_ ]+)?$")
_DENIED_AFTER = re.compile(
    r"[\w-]*(?:[\s=:(]*(?:false|off|disabled)\b|\s*[=:]\s*\(?(?:none|no|0|never|null)\b)"
)


def text(row: Mapping[str, Any], key: str) -> str:
    """Return the text of a cell; empty where the cell says nothing."""
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise SpecError(key, f"expected text, found {type(value).__name__}")
    found = str(value).strip()
    return "" if found.lower() in _EMPTY else found


def count(row: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number of at least 1, None where the cell is empty.

    A remark may follow (`51200(paper)`), a unit may not: `4k` is 4,000 to some and 4,096 to others.
    """
    value = row.get(key)
    if value is None or _is_empty(value):
        return None
    number = value
    if isinstance(value, str):
        found = _WHOLE.match(value.strip())
        number = float(found[0].replace(",", "")) if found else math.nan
    good = isinstance(number, int | float) and not isinstance(number, bool)
    if not good or not 1 <= number <= _MOST or number != int(number):
        raise SpecError(key, f"expected a whole number of at least 1, found {value!r}")
    return int(number)


def billions(row: Mapping[str, Any], key: str) -> float | None:
    """Return billions of parameters (`7.72`, `7.72B`, `350M`), None where the cell is empty."""
    value = row.get(key)
    if value is None or _is_empty(value):
        return None
    size = math.nan
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        if found:
            size = float(found[1]) / (1000 if found[2] in {"m", "M"} else 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        size = float(value) if abs(value) < 1e300 else math.nan  # noqa: PLR2004 - integers overflow
    if not 1e-6 < size < 1e5:  # noqa: PLR2004 - a thousand parameters to a hundred trillion
        raise SpecError(key, f"expected billions of parameters, found {value!r}")
    return size


def says(lowered: str, words: str) -> bool | None:
    """Return whether text in lower case claims or denies what `words` match; None: neither.

    `no X`, `without X`, `w/o X`, `X=false`, `X: off`, `X disabled` deny.
    """
    found = list(re.finditer(words, lowered))
    if not found:
        return None
    return any(
        not _DENIED_BEFORE.search(lowered[: match.start()])
        and not _DENIED_AFTER.match(lowered[match.end() :])
        for match in found
    )


def _is_empty(value: object) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, str) and (value.strip().lower() in _EMPTY | {"none"})
