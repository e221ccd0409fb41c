"""`qwenft estimate`: what a described run needs and yields, one mapping in, one mapping out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from qwenft_plan.cost import tokens_per_second
from qwenft_plan.errors import SpecError
from qwenft_plan.hardware import GIB
from qwenft_plan.memory import SAFETY, MemoryParts, peak_allocated, peak_memory
from qwenft_plan.row import Question, parse_row

__all__ = ["estimate_line", "estimate_row", "printed_memory"]

_LIVE = r"allocated|\bactive"
_RESERVED = r"reserved|cached"


def estimate_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return `tokens_per_s_per_gpu`, `memory_gb` (GiB) and `fits` of a run, or its `error`.

    `memory_gb` follows the row's `mem_semantics` (allocated, reserved, else all of the device);
    `fits` compares all of it with the device at the shipped safety margin. `assumed` stands beside
    them where the words of a column are not known. Never raises for bad input: the error names
    the column.
    """
    try:
        question = parse_row(row)
        speed = tokens_per_second(question.work, question.layout) / question.layout.world_size
        parts = peak_memory(question.work, question.layout)
    except SpecError as error:
        return {"error": str(error)}
    except (ArithmeticError, ValueError) as error:
        return {"error": f"row: numbers out of range ({error})"}
    shown = printed_memory(question, parts)
    if not (math.isfinite(speed) and math.isfinite(shown) and speed > 0):
        return {"error": "row: numbers out of range"}
    return {
        "tokens_per_s_per_gpu": float(f"{speed:.6g}"),
        "memory_gb": float(f"{shown / GIB:.6g}"),
        "fits": parts.total <= SAFETY * question.work.device.memory,
        **({"assumed": list(question.assumed)} if question.assumed else {}),
    }


def estimate_line(line: str) -> str:
    """Return the answer to one JSON line as one JSON line; bad JSON gives an `error`."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return json.dumps({"error": f"not JSON: {error}"})
    if not isinstance(row, dict):
        return json.dumps({"error": f"expected a JSON object, found {type(row).__name__}"})
    return json.dumps(estimate_row(row))


def printed_memory(question: Question, parts: MemoryParts) -> float:
    """Return the bytes that a source with these semantics prints."""
    live, reserved = (_first(question.semantics, words) for words in (_LIVE, _RESERVED))
    if live < reserved:
        return peak_allocated(question.work, question.layout)
    if reserved < live:
        context = question.work.runtime.overhead if question.work.device.vendor != "cpu" else 0.0
        return parts.total - context
    return parts.total


def _first(text: str, words: str) -> float:
    """Where one of the words stands in the text; infinity: nowhere."""
    found = re.search(words, text)
    return found.start() if found else math.inf
