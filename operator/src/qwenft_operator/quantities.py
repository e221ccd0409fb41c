"""Kubernetes quantities as numbers."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["amount"]

_SUFFIXES = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]{0,2})")


def amount(text: object) -> float:
    """Return ``1900m`` as 1.9 and ``16Gi`` as bytes; 0 for what is no quantity."""
    return _read(str(text))


@lru_cache(maxsize=4096)  # a cluster has thousands of pods and a few dozen quantities
def _read(text: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match.group(2) not in _SUFFIXES:
        return 0.0
    try:
        return float(match.group(1)) * _SUFFIXES[match.group(2)]
    except ValueError:
        return 0.0
