"""Reading the trainer's output: JSON lines of progress between lines of ordinary log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from qwenft_plan.errors import SpecError
from qwenft_plan.progress import Progress

__all__ = ["ending", "losses", "report", "reports"]


def report(line: str) -> Progress | None:
    """Return the report that ``line`` holds, None for any other line."""
    mapping = _object(line)
    if mapping is None or "step" not in mapping or "totalSteps" not in mapping:
        return None
    try:
        return Progress.from_mapping(mapping)
    except SpecError:
        return None


def ending(line: str) -> Mapping[str, Any] | None:
    """Return the trainer's last word (``exitCode``, ``reason``, …), None for other lines."""
    mapping = _object(line)
    return mapping if mapping is not None and {"exitCode", "reason"} <= mapping.keys() else None


def reports(log: Iterable[str]) -> tuple[Progress, ...]:
    """Return every report of a log, in order."""
    return tuple(found for line in log if (found := report(line)) is not None)


def losses(found: Iterable[Progress]) -> list[float]:
    """Return the training losses of the reports that have one."""
    return [one.loss for one in found if one.loss is not None]


def _object(line: str) -> Mapping[str, Any] | None:
    text = line.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
