"""``qwenft prepare``: text records to a dataset file. The work is the trainer's own."""

from __future__ import annotations

import argparse

from qwenft_cli.access import Connect
from qwenft_cli.failure import CliError
from qwenft_trainer import prepare_arguments

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "prepare"
HELP = "turn records (JSONL, Parquet, datasets, …) into a dataset file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, which are the trainer's own."""
    prepare_arguments.declare(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:  # noqa: ARG001 - no cluster needed
    """Hand the arguments to the trainer's module; raises :class:`CliError` where it is missing."""
    try:
        from qwenft_trainer import prepare  # noqa: PLC0415 - needs torch, which only this verb does
    except ModuleNotFoundError as error:
        raise CliError(
            f"preparing data needs the package {error.name}",
            next_step="Install it with: pip install 'qwenft[trainer]'",
        ) from None
    return prepare.carry_out(args)
