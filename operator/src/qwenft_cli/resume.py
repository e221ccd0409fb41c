"""``qwenft resume``: the counterpart of ``qwenft suspend``."""

from __future__ import annotations

import argparse

from qwenft_cli.access import Connect
from qwenft_cli.suspend import add_arguments, switch

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "resume"
HELP = "go on with a suspended run"


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Resume the run."""
    return switch(args, connect, suspended=False)
