"""``qwenft submit``: check a file here, then apply it to the cluster."""

from __future__ import annotations

import argparse

from qwenft_cli import document, options, watch
from qwenft_cli.access import Connect
from qwenft_cli.client import Client
from qwenft_cli.failure import OK

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "submit"
HELP = "apply a file to the cluster"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    options.add_file(parser)
    parser.add_argument("--dry-run", action="store_true", help="let the cluster check it only")
    parser.add_argument("-w", "--watch", action="store_true", help="watch the run until it ends")
    options.add_cluster(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Apply the file; with ``--watch`` the exit code is the run's."""
    read = document.load(args.file)
    access = connect(options.address(args, read))
    Client.over(access).submit(read, dry_run=args.dry_run)
    if args.dry_run:
        print(f"{read.name}: the cluster accepts it (dry run)")
        return OK
    print(f"{read.name}: submitted to namespace {access.namespace}")
    if args.watch:
        return watch.exit_code(watch.until_finished(access, read.name))
    print(f"Watch it: qwenft status {read.name} -n {access.namespace} --watch")
    return OK
