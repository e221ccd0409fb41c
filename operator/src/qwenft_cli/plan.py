"""``qwenft plan``: what the operator would choose, what to expect, why the others lost."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from pathlib import Path

from qwenft_cli import document, guidance, options
from qwenft_cli.access import Connect
from qwenft_cli.failure import OK
from qwenft_plan import explain
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.picture import picture
from qwenft_plan.planner import Planned, plan

__all__ = ["HELP", "NAME", "add_arguments", "planned", "run", "wrapped"]

NAME = "plan"
HELP = "show the plan for a file, and why the others lost"
_WIDE = 10_000
"""A pipe gets whole lines: it may end in grep."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    options.add_file(parser)
    options.add_inventory(parser)
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table",
        help="a table for people (the default), or json: the fields of the plan file",
    )  # fmt: skip
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw memory and step time as stacked bars"
    )
    guidance.add_arguments(parser)
    options.add_cluster(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Print the table, or the plan file with ``-o json``."""
    read = document.load(args.file)
    advice = guidance.advice(args, read, connect)
    chosen, capacity = guidance.planned(read, advice, args, connect)
    if args.plot is not None:
        args.plot.write_text(picture(chosen), encoding="utf-8")
    if args.output == "json":
        print(chosen.plan.to_json(), end="")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
        remark = f"\n{capacity.remark}\n" if capacity.remark else ""
        print(wrapped(explain.table(chosen, advice.prices) + remark, width), end="")
    return OK


def wrapped(text: str, width: int) -> str:
    """Return ``text`` with long lines broken at blanks and their rest indented."""
    return "".join(_fold(line, width) + "\n" for line in text.splitlines())


def _fold(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    pieces = textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(pieces)


def planned(read: document.Document, nodes: Inventory) -> Planned:
    """Plan a file for ``nodes``; raises ``SpecError`` or ``Infeasible``."""
    return plan(spec=read.spec, model=ModelShape.for_spec(read.spec.model), inventory=nodes)
