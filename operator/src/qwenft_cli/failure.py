"""How a command ends that cannot do what it was asked: a sentence, the next step, a code."""

from __future__ import annotations

__all__ = ["BAD_INPUT", "FAILED", "INFEASIBLE", "INTERRUPTED", "OK", "CliError"]

OK = 0
FAILED = 1
"""The command was understood, but the cluster, the run or the machine let it down."""
BAD_INPUT = 2
"""The user's file or arguments are wrong; argparse uses the same number."""
INFEASIBLE = 3
"""The file is right, but nothing fits the nodes at hand."""
INTERRUPTED = 130
"""Ctrl-C, as every shell counts it."""


class CliError(Exception):
    """What went wrong in one sentence (``message``) and what to do about it (``next_step``)."""

    def __init__(self, message: str, *, next_step: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.exit_code = exit_code
