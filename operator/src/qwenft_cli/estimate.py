"""``qwenft estimate``: predictions for configurations, one JSON line out for each line in."""

from __future__ import annotations

import argparse
import sys

from qwenft_cli.access import Connect
from qwenft_cli.failure import OK
from qwenft_plan.estimate import estimate_line

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "estimate"
HELP = "predict speed and memory for configurations, JSON lines in and out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the verb reads standard input."""
    parser.epilog = (
        'Each line is an object such as {"model": "Qwen2.5-7B", "gpu": "H100", "n_gpus": 8, '
        '"seq_len": 4096, "global_batch": 64, "micro_batch": 1, "fsdp": 8}; the answer holds '
        "tokens_per_s_per_gpu, memory_gb and fits, beside them assumed where a framework is not "
        "known, or error. Columns of text are read as tables print them."
    )


def run(args: argparse.Namespace, connect: Connect) -> int:  # noqa: ARG001 - no cluster needed
    """Answer in order; a bad line is answered with ``error`` and does not end the rest."""
    for line in sys.stdin:
        if line.strip():
            print(estimate_line(line), flush=True)
    return OK
