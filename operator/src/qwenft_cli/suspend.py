"""``qwenft suspend`` and ``qwenft resume``: one switch, two verbs."""

from __future__ import annotations

import argparse

from qwenft_cli import options
from qwenft_cli.access import Connect
from qwenft_cli.client import Client
from qwenft_cli.failure import OK
from qwenft_cli.printing import show_json

__all__ = ["HELP", "NAME", "add_arguments", "run", "switch"]

NAME = "suspend"
HELP = "stop a run's pods and keep its place; resume goes on from the last checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="the run")
    options.add_output(parser)
    options.add_cluster(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Suspend the run."""
    return switch(args, connect, suspended=True)


def switch(args: argparse.Namespace, connect: Connect, *, suspended: bool) -> int:
    """Set ``spec.runPolicy.suspend`` and say what happens next."""
    access = connect(options.address(args))
    client = Client.over(access)
    stored = (client.suspend if suspended else client.resume)(args.name)
    if args.output == "json":
        show_json(stored)
        return OK
    doing = "suspending" if suspended else "resuming"
    print(f"{args.name}: {doing}; see qwenft status {args.name} -n {access.namespace}")
    return OK
