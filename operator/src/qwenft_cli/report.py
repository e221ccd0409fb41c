"""``qwenft report``: one HTML page about a run that can be mailed, printed or opened on a phone."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

from qwenft_cli import options, page, watch
from qwenft_cli.access import Connect
from qwenft_cli.failure import BAD_INPUT, OK, CliError

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "report"
HELP = "write a self-contained HTML page about a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="the run")
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="report.html",
        help="where the page goes (default: %(default)s)",
    )  # fmt: skip
    options.add_cluster(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Write the page whole or not at all."""
    access = connect(options.address(args))
    body = access.run(args.name)
    snapshot = watch.look(access, args.name)
    text = page.page(
        body, snapshot, watch.history(access, snapshot), access.events(body), datetime.now(UTC)
    )
    target = Path(args.output)
    part = target.with_name(target.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, target)  # noqa: PTH105 - atomic, which is the point
    except OSError as error:
        raise CliError(
            f"{args.output}: {error.strerror}",
            next_step="Give a file that can be written with -o.",
            exit_code=BAD_INPUT,
        ) from None
    print(f"{args.name}: wrote {args.output}")
    return OK
