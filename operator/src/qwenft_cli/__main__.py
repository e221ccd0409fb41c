"""The one entry point of ``qwenft`` and ``kubectl qft``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from qwenft_cli import (
    completion,
    estimate,
    events,
    logs,
    plan,
    prepare,
    render,
    report,
    resume,
    run,
    status,
    submit,
    suspend,
)
from qwenft_cli.access import Connect
from qwenft_cli.connect import connect
from qwenft_cli.failure import BAD_INPUT, INFEASIBLE, INTERRUPTED, OK, CliError
from qwenft_plan.errors import Infeasible, SpecError

__all__ = ["VERBS", "main", "parser"]

VERBS: tuple[ModuleType, ...] = (
    plan, estimate, render, run, prepare, submit, status, logs, events, suspend, resume, report,
    completion,
)  # fmt: skip


def main(argv: Sequence[str] | None = None, connect: Connect = connect) -> int:
    """Run one verb and return the exit code: 0 done, 1 failed, 2 bad input, 3 nothing fits."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments, connect)
        sys.stdout.flush()
    except CliError as error:
        return _say(error.message, error.next_step, error.exit_code)
    except SpecError as error:
        return _say(str(error), "Correct it and run the command again.", BAD_INPUT)
    except Infeasible as error:
        return _nothing_fits(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python must not complain while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of every verb."""
    top = argparse.ArgumentParser(prog=_prog(), description="Fine-tune Qwen models on Kubernetes.")
    top.add_argument("--version", action="version", version=f"qwenft {_version()}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in VERBS:
        below = verbs.add_parser(module.NAME, help=module.HELP, description=_sentence(module.HELP))
        module.add_arguments(below)
        below.set_defaults(module=module, parser=parser)
    return top


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _dispatch(arguments: Sequence[str], connect: Connect) -> int:
    if not arguments:
        parser().print_help(sys.stderr)
        return BAD_INPUT
    # argparse has no notion of words that belong to another program, so they are parted first.
    own, found, theirs = _part(arguments, "--")
    top = parser()
    args = top.parse_args(own)
    if found and not hasattr(args, "arguments"):
        top.error(f"{args.verb} takes no words after --")
    if found:
        args.arguments = theirs
    code: int = args.module.run(args, connect)
    return code


def _part(words: Sequence[str], border: str) -> tuple[Sequence[str], bool, Sequence[str]]:
    """Return the words before and after ``border``, and whether it is there."""
    if border not in words:
        return words, False, ()
    place = words.index(border)
    return words[:place], True, words[place + 1 :]


def _prog() -> str:
    return "kubectl qft" if Path(sys.argv[0]).name.startswith("kubectl-qft") else "qwenft"


def _version() -> str:
    try:
        return version("qwenft")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "(not installed)"


def _nothing_fits(error: Infeasible) -> int:
    reasons = "".join(f"\n  - {reason}" for reason in error.reasons)
    step = "Allow more nodes, another model or a shorter sequence, or free a fixed degree."
    return _say(f"no plan fits:{reasons}", step, INFEASIBLE)


def _say(message: str, next_step: str, code: int) -> int:
    print(f"{_prog()}: {message}", file=sys.stderr)
    if next_step:
        print(f"  {next_step}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
