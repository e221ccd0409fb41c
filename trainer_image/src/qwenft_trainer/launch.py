"""torchrun with typed exit codes: start this node's ranks, wait, and say why they ended.

torch's own argument parser and agent do the work, so every flag and ``PET_*`` variable of torchrun
means what it means there. Added are the cause of the first failing rank, as exit code and as JSON
in the termination message, a check of the plan before anything starts, and patience while the
master's name does not resolve yet.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.launcher.api import elastic_launch

from qwenft_trainer import cards, errorfile, forked, loading, oomwatch, planfile, report
from qwenft_trainer.earlystop import EarlyStop
from qwenft_trainer.failure import (
    SILENCE,
    Cause,
    CommunicationFailure,
    Hung,
    Preempted,
    TrainerError,
    cause_of_exit,
    completed,
    first_cause,
)

BUILTIN = "qwenft_trainer.builtin"
"""Stands for the built-in loop where torchrun expects a script."""


TERMINATION_VARIABLE = "QWENFT_TERMINATION_LOG"
_CONSEQUENCES = (CommunicationFailure.exit_code, Preempted.exit_code)
KUBELET_LOG = Path("/dev/termination-log")
RESOLVE_PAUSE_SECONDS, RESOLVE_SLOWLY_SECONDS = 0.1, 1.0
RESOLVE_HASTE_SECONDS = 5.0
"""For so long the name is asked for often: it comes within a second, or not before the cluster's
DNS has forgotten that there was none, half a minute later. A thousand pods ask at once."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one node's part of a run; return the exit code (0, or 64 to 70)."""
    args = parse(sys.argv[1:] if argv is None else argv)
    with _folder() as work:
        result = work / "result.json"
        os.environ[report.RESULT_VARIABLE] = str(result)
        with EarlyStop(_on_early_stop) as early:
            cause = _attempt(args, work / "ranks", early)
        if cause is not None:
            _publish(cause.to_message(), stream=sys.stderr)
            return cause.exit_code
        if args.node_rank == 0:
            _publish(completed(_read_result(result)), stream=sys.stdout)
    return 0


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder and remove it; a ``TemporaryDirectory`` would be removed by each fork, too."""
    made = Path(tempfile.mkdtemp(prefix="qwenft-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read torchrun's command line, where the script may be missing (the built-in loop).

    A stand-in is appended: it becomes the script if there is none, else the last argument, which
    is taken off again.
    """
    args = torchrun.get_args_parser().parse_args([*argv, BUILTIN])
    if args.training_script_args:
        args.training_script_args.pop()
    elif args.training_script != BUILTIN:
        raise AssertionError(args)
    if not (args.no_python or args.run_path):
        _route_through_boot(args)
    _choose_rendezvous(args)
    return args


def wait_for_name(host: str, *, timeout: float) -> None:
    """Wait until a host name resolves: pod 0's DNS record may come after this pod's start.

    Raises :class:`CommunicationFailure` after ``timeout`` seconds.
    """
    began = time.monotonic()
    while True:
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            waited = time.monotonic() - began
            if waited >= timeout:
                raise CommunicationFailure(
                    f"the master's name {host!r} did not resolve within {timeout:.0f} s: {error}",
                ) from None
            hasty = waited < RESOLVE_HASTE_SECONDS
            time.sleep(RESOLVE_PAUSE_SECONDS if hasty else RESOLVE_SLOWLY_SECONDS)
        else:
            return


def _route_through_boot(args: argparse.Namespace) -> None:
    """Let each rank start in qwenft_trainer.boot, which then runs the script or the loop."""
    target = [] if args.training_script == BUILTIN else [args.training_script]
    flag = ["-m"] if args.module else []
    args.training_script_args = [*flag, *target, *args.training_script_args]
    args.training_script = forked.MODULE
    args.module = True


def _runs_loop(args: argparse.Namespace) -> bool:
    return bool(args.training_script == forked.MODULE and not args.training_script_args)


def _choose_rendezvous(args: argparse.Namespace) -> None:
    """Do as torchrun does: one node without an address rendezvouses on a free local port."""
    alone = torchrun.parse_min_max_nnodes(args.nnodes)[1] == 1
    nowhere = args.rdzv_backend == "static" and not args.rdzv_endpoint and args.master_port is None
    if args.standalone or (alone and nowhere):
        args.rdzv_backend, args.rdzv_endpoint = "c10d", "localhost:0"
        args.rdzv_id = f"local-{os.getpid()}"
        # Without it the agent would look up this machine's full name, which may not resolve.
        args.local_addr = args.local_addr or "127.0.0.1"
    if args.master_port is None:
        args.master_port = 29500


def _attempt(args: argparse.Namespace, logs: Path, early: EarlyStop) -> Cause | None:
    """Start the ranks and wait for their end; return why they failed, None when they did not."""
    args.log_dir = args.log_dir or str(logs)
    kills = oomwatch.kills()
    try:
        with forked.driver_unasked():
            config, command, arguments = torchrun.config_from_args(args)
        plan = planfile.load(os.environ, world_size=config.nproc_per_node * config.max_nodes)
        if _runs_loop(args):
            # Once for this process and all of its ranks, while the other nodes come up.
            loading.loop(plan)
        if config.rdzv_endpoint:
            host, _ = parse_rendezvous_endpoint(config.rdzv_endpoint, default_port=0)
            wait_for_name(host, timeout=config.rdzv_configs["timeout"])
        early.end_with(config)
        _avoid_unusable_cards()
        with forked.ranks():
            elastic_launch(config=config, entrypoint=command)(*arguments)
    except ChildFailedError as error:
        return _blame(error, Path(args.log_dir), out_of_memory=oomwatch.kills() > kills)
    except SignalException as error:
        return _preempted(error, Path(args.log_dir))
    except Exception as error:  # noqa: BLE001 - whatever ends the launcher ends in a typed exit
        # torch's agent itself fails on an error file that is not as it expects: what the ranks
        # left still says more than the agent's error does.
        started = not isinstance(error, TrainerError)
        told = tuple(errorfile.read_all(Path(args.log_dir))) if started else ()
        return first_cause(told) if told else errorfile.describe(error)
    return None


def _avoid_unusable_cards() -> None:
    variables, message = cards.way_around(os.environ)
    if message:
        os.environ.update(variables)
        print(message, file=sys.stderr, flush=True)  # noqa: T201


def _blame(error: ChildFailedError, logs: Path, *, out_of_memory: bool) -> Cause:
    """Name the first cause among the error files, and the bare exits of ranks without one."""
    ranks = {failure.local_rank: rank for rank, failure in error.failures.items()}
    causes = list(errorfile.read_all(logs, ranks))
    words = list(errorfile.read_words(logs))
    told = {cause.rank for cause in causes}
    stalled = bool(words) or any(cause.message.startswith(SILENCE) for cause in causes)
    for rank, failure in error.failures.items():
        # A rank that stood still does not hear the agent's SIGTERM either: SIGKILL ended it.
        follows = stalled and failure.exitcode == -signal.SIGKILL and not out_of_memory
        if rank not in told and not follows:
            bare = cause_of_exit(failure.exitcode, rank=rank, out_of_memory=out_of_memory)
            causes.append(bare.at(float(failure.timestamp)))
    # Whoever was silent is to blame for those that waited in vain, and for no other error.
    explained = words and all(cause.exit_code in _CONSEQUENCES for cause in causes)
    return first_cause([*causes, *words] if explained else causes)


def _preempted(error: SignalException, logs: Path) -> Cause:
    """Prefer what a rank says about its preemption (the saved step) to the bare signal.

    And before both that a rank stood still: its peers' pods may have ended first, and this one's
    end was then asked for.
    """
    told = list(errorfile.read_all(logs))
    said = [c for c in told if c.exit_code == Preempted.exit_code or c.reason == Hung.reason]
    bare = errorfile.describe(Preempted(f"the launcher received {error.sigval.name}"))
    # A word is no last one: a rank that has saved since says more.
    return first_cause(said or list(errorfile.read_words(logs)) or [bare])


def _on_early_stop(signal_name: str) -> int:
    cause = errorfile.describe(Preempted(f"{signal_name} came before the ranks were started"))
    _publish(cause.to_message(), stream=sys.stderr)
    return cause.exit_code


def _publish(message: str, *, stream: TextIO) -> None:
    """Print the message as one line and leave it where the kubelet looks for it."""
    print(message, file=stream, flush=True)
    named = os.environ.get(TERMINATION_VARIABLE)
    # The default path is a file that the kubelet mounts: it is never made here.
    path = Path(named) if named else KUBELET_LOG
    if not named and not path.is_file():
        return
    try:
        path.write_text(message, encoding="utf-8")
    except OSError as error:
        print(f"{path} cannot be written: {error}", file=sys.stderr)  # noqa: T201


def _read_result(path: Path) -> Mapping[str, object] | None:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None
