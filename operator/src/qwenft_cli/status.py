"""``qwenft status``: the runs of a namespace, or one run, once or until it ends."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Table

from qwenft_cli import lines, options, view, watch, wording
from qwenft_cli.access import Access, Connect, Object
from qwenft_cli.failure import BAD_INPUT, OK, CliError
from qwenft_cli.printing import show, show_json
from qwenft_cli.snapshot import Snapshot, of_run

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "status"
HELP = "show the runs, or one run; --watch follows it until it ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="one run, else all")
    parser.add_argument("-w", "--watch", action="store_true", help="redraw until the run ends")
    options.add_output(parser)
    options.add_cluster(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Print; with ``--watch`` the exit code is the run's, and json comes once it has ended."""
    if args.watch and not args.name:
        raise CliError(
            "--watch follows one run",
            next_step="Name it: qwenft status NAME --watch",
            exit_code=BAD_INPUT,
        )
    access = connect(options.address(args))
    if args.watch:
        return watch.follow(access, args.name, output=args.output)
    if args.output == "json":
        show_json(access.run(args.name) if args.name else access.runs())
    elif args.name:
        _print_one(access, args.name)
    else:
        _print_all(access.runs(), access.namespace)
    return OK


def _print_one(access: Access, name: str) -> None:
    snapshot = watch.look(access, name)
    losses = lines.losses(watch.history(access, snapshot))
    show(view.draw(snapshot, losses, datetime.now(UTC)))


def _print_all(runs: Sequence[Object], namespace: str) -> None:
    if not runs:
        print(f"No runs in namespace {namespace}. Submit one: qwenft submit FILE")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "PHASE", "STEP", "LOSS", "WORKERS", "RESTARTS", "AGE"):
        table.add_column(heading, no_wrap=heading != "NAME", overflow="fold")
    now = datetime.now(UTC)
    for body in runs:
        created = str(body["metadata"].get("creationTimestamp") or "")
        table.add_row(*_cells(of_run(body)), wording.age(created, now))
    show(table)


def _cells(snapshot: Snapshot) -> tuple[str, ...]:
    progress = snapshot.progress
    step = f"{progress.step}/{progress.total_steps}" if progress else ""
    loss = wording.number(progress.loss) if progress and progress.loss is not None else ""
    return (
        snapshot.name, snapshot.phase, step, loss, snapshot.workers_ready, str(snapshot.restarts),
    )  # fmt: skip
