"""``qwenft submit``: check a file here, then apply it to the cluster."""

from __future__ import annotations

import argparse

from qwenft_cli import document, options, watch
from qwenft_cli.access import Connect
from qwenft_cli.client import Client
from qwenft_cli.failure import OK
from qwenft_cli.printing import show_json

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "submit"
HELP = "apply a file to the cluster"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    options.add_file(parser)
    parser.add_argument("--dry-run", action="store_true", help="let the cluster check it only")
    parser.add_argument("-w", "--watch", action="store_true", help="watch the run until it ends")
    options.add_output(parser)
    options.add_cluster(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Apply the file; with ``--watch`` the exit code is the run's, and json comes at its end."""
    read = document.load(args.file)
    access = connect(options.address(args, read))
    stored = Client.over(access).apply(read, dry_run=args.dry_run)
    watched = args.watch and not args.dry_run
    if args.output == "text":
        print(_said(read.name, access.namespace, dry_run=args.dry_run, watched=watched))
    elif not watched:
        show_json(stored)
    return watch.follow(access, read.name, output=args.output) if watched else OK


def _said(name: str, namespace: str, *, dry_run: bool, watched: bool) -> str:
    if dry_run:
        return f"{name}: the cluster accepts it (dry run)"
    said = f"{name}: submitted to namespace {namespace}"
    return said if watched else f"{said}\nWatch it: qwenft status {name} -n {namespace} --watch"
