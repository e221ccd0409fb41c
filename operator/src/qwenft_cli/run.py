"""``qwenft run``: train a file on this machine, through the same trainer and without a cluster."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from qwenft_cli import document, local, options
from qwenft_cli import plan as plan_verb
from qwenft_cli.access import Connect
from qwenft_cli.document import Document
from qwenft_cli.failure import BAD_INPUT, OK, CliError
from qwenft_cli.machine import Machine
from qwenft_cli.snapshot import Snapshot
from qwenft_cli.watch import Screen
from qwenft_plan.plan import Plan
from qwenft_plan.spec import Resources

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "run"
HELP = "train a file on this machine, without a cluster"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    options.add_file(parser)
    parser.add_argument("--plan", metavar="FILE", help="a plan file, else planned for this machine")
    parser.add_argument("--script", metavar="FILE", help="your own training script")
    parser.add_argument(
        "--mount", metavar="MOUNTPOINT=DIR", action="append", default=[],
        help="the directory that stands for a volume, as /data=./data; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--processes", type=int, metavar="N", help="else one for each GPU, or, without any, core"
    )
    parser.add_argument("--cpu", action="store_true", help="use the cores even beside a GPU")
    parser.set_defaults(arguments=[])
    parser.epilog = "Words after -- go to the script, instead of the file's spec.trainer.args."


def run(args: argparse.Namespace, connect: Connect) -> int:  # noqa: ARG001 - no cluster needed
    """Train; the exit code is the trainer's."""
    read = document.load(args.file)
    places = local.mounts(args.mount)
    local.need_directories(read, places)
    script = _script(args, read, places)
    machine = Machine.look(cpu=args.cpu)
    plan, snapshot = _plan(args, read, machine)
    _need_trainer()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="qwenft-run-") as folder, Screen(console) as screen:
        environ = local.environment(plan, local.run_file(read, places), Path(folder), os.environ)
        environ |= machine.variables(plan.world_size, planned_here=args.plan is None)
        screen.show(snapshot)
        outcome = local.follow(
            local.command(plan, script), environ, snapshot, screen.show,
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )  # fmt: skip
    return _conclude(outcome)


def _plan(args: argparse.Namespace, read: Document, machine: Machine) -> tuple[Plan, Snapshot]:
    """Return the plan and the first view of the run."""
    started = datetime.now(UTC).isoformat()
    if args.plan:
        plan = Plan.load(Path(args.plan))
        summary = f"{plan.world_size} processes, from {args.plan}"
        return plan, Snapshot(name=read.name, phase="Starting", plan=summary, started=started)
    if machine.remark:
        print(f"note: {machine.remark}; planned for the CPU", file=sys.stderr)
    chosen = plan_verb.planned(_here(read), machine.inventory(args.processes))
    snapshot = Snapshot(
        name=read.name,
        phase="Starting",
        plan=chosen.summary,
        reason=chosen.reason,
        predicted={
            "memoryGiB": chosen.predicted.memory_gib,
            "tokensPerSecond": chosen.predicted.tokens_per_second,
        },
        started=started,
    )
    return chosen.plan, snapshot


def _here(read: Document) -> Document:
    """Return the run without what it asks of a cluster: it has this machine, and that is said."""
    if read.spec.resources == Resources():
        return read
    print("note: spec.resources is for a cluster; planned for this machine", file=sys.stderr)
    return replace(read, spec=replace(read.spec, resources=Resources()))


def _script(
    args: argparse.Namespace, read: Document, places: tuple[local.Mount, ...]
) -> tuple[str, ...]:
    """Return the script and its arguments; none for the built-in loop."""
    if args.script is None:
        if read.spec.trainer.script is not None:
            raise CliError(
                "spec.trainer.script names a ConfigMap, which only a cluster has",
                next_step="Give the script's file: --script train.py",
                exit_code=BAD_INPUT,
            )
        return ()
    if not Path(args.script).is_file():
        raise CliError(
            f"{args.script}: no such file",
            next_step="Give the path of a Python script with --script.",
            exit_code=BAD_INPUT,
        )
    words = args.arguments or read.spec.trainer.args
    return (args.script, *(local.word_here(word, places) for word in words))


def _need_trainer() -> None:
    if importlib.util.find_spec("torch") is None:
        raise CliError(
            "training on this machine needs torch",
            next_step="Install it with: pip install 'qwenft[trainer]'",
        )


def _conclude(outcome: local.Outcome) -> int:
    if outcome.exit_code == OK:
        return OK
    failure = outcome.snapshot.failure
    message = f"{failure.reason}: {failure.message}" if failure else "the trainer failed"
    raise CliError(
        f"{outcome.snapshot.name}: {message}",
        next_step="The lines above are the trainer's own.",
        exit_code=outcome.exit_code,
    )
