"""``qwenft prepare``: text records to a dataset file. The work is the trainer's own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from qwenft_cli.access import Connect
from qwenft_cli.failure import CliError

__all__ = ["HELP", "NAME", "add_arguments", "hand_over", "run"]

NAME = "prepare"
HELP = "turn records (JSONL, Parquet, datasets, …) into a dataset file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the arguments, ``--help`` included, are the trainer's own."""
    parser.add_argument("arguments", nargs=argparse.REMAINDER)


def run(args: argparse.Namespace, connect: Connect) -> int:  # noqa: ARG001 - no cluster needed
    """Hand the arguments on."""
    return hand_over(args.arguments)


def hand_over(arguments: Sequence[str]) -> int:
    """Run the trainer's module; raises :class:`CliError` when it is not installed."""
    try:
        from qwenft_trainer import prepare  # noqa: PLC0415 - needs torch, which only this verb does
    except ModuleNotFoundError as error:
        raise CliError(
            f"preparing data needs the package {error.name}",
            next_step="Install it with: pip install 'qwenft[trainer]'",
        ) from None
    return prepare.main(list(arguments))
