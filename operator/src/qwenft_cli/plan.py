"""``qwenft plan``: what the operator would choose, what to expect, why the others lost."""

from __future__ import annotations

import argparse

from qwenft_cli import document, options
from qwenft_cli.access import Connect
from qwenft_cli.failure import OK
from qwenft_plan import explain
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan

__all__ = ["HELP", "NAME", "add_arguments", "planned", "run"]

NAME = "plan"
HELP = "show the plan for a file, and why the others lost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    options.add_file(parser)
    options.add_inventory(parser)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options.add_cluster(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Print the table, or the plan file with ``-o json``."""
    read = document.load(args.file)
    chosen = planned(read, options.capacity(args, read, connect).inventory)
    print(chosen.plan.to_json().rstrip() if args.output == "json" else explain.table(chosen))
    return OK


def planned(read: document.Document, nodes: Inventory) -> Planned:
    """Plan a file for ``nodes``; raises ``SpecError`` or ``Infeasible``."""
    return plan(spec=read.spec, model=ModelShape.for_spec(read.spec.model), inventory=nodes)
