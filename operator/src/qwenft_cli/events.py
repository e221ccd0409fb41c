"""``qwenft events``: what happened to a run, oldest first."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from rich.table import Table

from qwenft_cli import options, wording
from qwenft_cli.access import Connect, Object
from qwenft_cli.failure import OK
from qwenft_cli.printing import show, show_json

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "events"
HELP = "list what happened to a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="the run")
    options.add_output(parser)
    options.add_cluster(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Print the events."""
    access = connect(options.address(args))
    events = access.events(access.run(args.name))
    if args.output == "json":
        show_json(events)
    elif events:
        show(_table(events))
    else:
        print(f"No events about {args.name}; the cluster forgets them after an hour.")
    return OK


def _table(events: tuple[Object, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("AGE", "TYPE", "REASON"):
        table.add_column(heading, no_wrap=True)
    table.add_column("MESSAGE", overflow="fold")
    now = datetime.now(UTC)
    for event in events:
        style = "red" if event.get("type") == "Warning" else ""
        table.add_row(*(_cells(event, now)), style=style)
    return table


def _cells(event: Object, now: datetime) -> tuple[str, ...]:
    when = event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp")
    times = int(event.get("count") or 1)
    message = str(event.get("message") or "")
    return (
        wording.age(str(when or ""), now),
        str(event.get("type") or ""),
        str(event.get("reason") or ""),
        f"{message} ({times} times)" if times > 1 else message,
    )
