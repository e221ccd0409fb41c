"""``qwenft logs``: the output of the pod that holds a rank, or of the one that failed first."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from qwenft_cli import options
from qwenft_cli.access import Connect, Object
from qwenft_cli.failure import BAD_INPUT, FAILED, OK, CliError
from qwenft_operator import names

__all__ = ["HELP", "NAME", "add_arguments", "choose", "run"]

NAME = "logs"
HELP = "print a rank's output"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="the run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--rank", type=int, default=0, help="global rank, 0 when not given")
    which.add_argument("--failed", action="store_true", help="the rank that failed first")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as more is written")
    options.add_cluster(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Print the log of the pod that holds the rank."""
    access = connect(options.address(args))
    body = access.run(args.name)
    pod = choose(body, access.pods(args.name), None if args.failed else args.rank)
    for line in access.log(pod, follow=args.follow):
        print(line)
    return OK


def choose(body: Object, pods: Sequence[Object], rank: int | None) -> str:
    """Return the pod that holds ``rank``, or, for None, the one that failed first.

    Raises :class:`CliError` when there is no such rank, no failure, or the pod is gone.
    """
    name = str(body["metadata"]["name"])
    status: Mapping[str, Any] = body.get("status") or {}
    attempt = int(status.get("attempt") or 1)
    if rank is None:
        failure = status.get("failure")
        if not failure:
            raise CliError(f"{name} has no failed rank", next_step=f"Try: qwenft logs {name}")
        attempt, rank = int(failure.get("attempt") or attempt), int(failure.get("rank") or 0)
        if any(pod["metadata"]["name"] == failure.get("pod") for pod in pods):
            return str(failure["pod"])
    index = _pod_index(name, status.get("plan") or {}, rank)
    for pod in pods:
        labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
        if (labels.get(names.LABEL_ATTEMPT), labels.get(names.LABEL_INDEX)) == (
            str(attempt),
            str(index),
        ):
            return str(pod["metadata"]["name"])
    raise CliError(
        f"{name} has no pod for rank {rank} of attempt {attempt}",
        next_step=f"See what it waits for, or what cleanPodPolicy left: qwenft status {name}",
        exit_code=FAILED,
    )


def _pod_index(name: str, plan: Mapping[str, Any], rank: int) -> int:
    world = int(plan.get("worldSize") or 1)
    if not 0 <= rank < world:
        raise CliError(
            f"{name} has the ranks 0 to {world - 1}, not {rank}",
            next_step="Give one of them with --rank.",
            exit_code=BAD_INPUT,
        )
    return rank // int(plan.get("processesPerNode") or 1)
