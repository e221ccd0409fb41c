"""Reading typed fields out of parsed JSON or YAML, with errors that carry the path.

Every reader takes the mapping, the key and the path of the mapping, and raises
:class:`~qwenft_plan.errors.SpecError` naming ``path.key``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from qwenft_plan.errors import SpecError

__all__ = ["boolean", "choice", "integer", "number", "only_known", "quantity", "section", "text"]

_SUFFIXES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip


def only_known(mapping: Mapping[str, Any], known: tuple[str, ...], path: str) -> None:
    """Refuse a key that nobody would read: a typo must not pass in silence."""
    for key in mapping:
        if key not in known:
            raise SpecError(f"{path}.{key}", f"is not a known field; known are {', '.join(known)}")


def section(mapping: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
    """Return the mapping under ``key``; an absent one is empty."""
    value = mapping.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpecError(f"{path}.{key}", f"must be a mapping, not {type(value).__name__}")
    return value


def text(mapping: Mapping[str, Any], key: str, path: str, default: str = "") -> str:
    """Return a string without control characters."""
    value = mapping.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise SpecError(f"{path}.{key}", f"must be a string, not {type(value).__name__}")
    if any(ord(character) < ord(" ") for character in value):
        raise SpecError(f"{path}.{key}", "must not hold control characters")
    return value


def choice(
    mapping: Mapping[str, Any], key: str, path: str, allowed: tuple[str, ...], default: str
) -> str:
    """Return one of ``allowed``; ``default`` when the key is absent."""
    value = text(mapping, key, path)
    if not value:
        return default
    if value not in allowed:
        raise SpecError(f"{path}.{key}", f"{value!r} is none of {', '.join(allowed)}")
    return value


def integer(
    mapping: Mapping[str, Any], key: str, path: str, *, least: int, most: int = 2**31 - 1
) -> int | None:
    """Return an integer within ``least..most``, or None when the key is absent."""
    value = mapping.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(f"{path}.{key}", f"must be an integer, not {value!r}")
    if not least <= value <= most:
        raise SpecError(f"{path}.{key}", f"{value} is not within {least}..{most}")
    return value


def number(
    mapping: Mapping[str, Any], key: str, path: str, *, least: float, default: float
) -> float:
    """Return a finite number of at least ``least``."""
    value = mapping.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"{path}.{key}", f"must be a number, not {value!r}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result) or result < least:
        raise SpecError(f"{path}.{key}", f"{value} is not a finite number of at least {least}")
    return result


def boolean(mapping: Mapping[str, Any], key: str, path: str, *, default: bool) -> bool:
    """Return a boolean."""
    value = mapping.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise SpecError(f"{path}.{key}", f"must be true or false, not {value!r}")
    return value


def quantity(mapping: Mapping[str, Any], key: str, path: str) -> int | None:
    """Return a Kubernetes quantity (``16Gi``, ``500M``, 1000) in whole bytes, None when absent."""
    value = mapping.get(key)
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([A-Za-z]{0,2})", str(value))
    if match is None or match.group(2) not in _SUFFIXES:
        raise SpecError(f"{path}.{key}", f"{value!r} is no quantity such as 16Gi")
    return int(float(match.group(1)) * _SUFFIXES[match.group(2)])
