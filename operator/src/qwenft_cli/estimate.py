"""``qwenft estimate``: predictions for configurations, one JSON line out for each line in."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qwenft_cli.access import Connect
from qwenft_cli.failure import OK

__all__ = ["HELP", "NAME", "add_arguments", "answers", "run"]

NAME = "estimate"
HELP = "predict speed and memory for configurations, JSON lines in and out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the verb reads standard input."""
    parser.epilog = (
        'Each line is an object such as {"model": "Qwen2.5-7B", "gpu": "H100", "n_gpus": 8, '
        '"seq_len": 4096, "global_batch": 64, "micro_batch": 1, "fsdp": 8}; the answer holds '
        "tokens_per_s_per_gpu, memory_gb and fits, or error."
    )


def run(args: argparse.Namespace, connect: Connect) -> int:  # noqa: ARG001 - no cluster needed
    """Answer in order; a bad line is answered with ``error`` and does not end the rest."""
    for answer in answers(sys.stdin):
        print(json.dumps(answer), flush=True)
    return OK


def answers(rows: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Yield one answer for each line that is not blank."""
    for row in rows:
        if row.strip():
            yield _answer(row)


def _answer(row: str) -> Mapping[str, Any]:
    try:
        mapping = json.loads(row)
    except (ValueError, RecursionError) as error:
        return {"error": f"not JSON: {error}"}
    if not isinstance(mapping, dict):
        return {"error": f"expected an object, not {type(mapping).__name__}"}
    from qwenft_plan import estimate as module

    return module.estimate(mapping)
