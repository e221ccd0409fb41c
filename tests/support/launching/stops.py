"""Launchers that are told to stop: each in a child of one process, since torch loads slowly.

``python -m launching.stops`` prints a JSON object: case → exit code and what was printed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from qwenft_trainer.earlystop import EarlyStop

PATIENCE_SECONDS = 20.0


def told(name: str) -> int:
    """Do what a launcher does, and end with a code of its own."""
    print(f"stopped by {name}", flush=True)
    return 64


def signalled(number: int) -> Callable[[], None]:
    """Return a case in which a signal comes while the launcher waits for others."""

    def case() -> None:
        with EarlyStop(told):
            os.kill(os.getpid(), number)
            time.sleep(PATIENCE_SECONDS)

    return case


def blocked_in_c() -> None:
    """Wait as torch's store does: in C, where no Python handler runs."""
    gate = threading.Lock()
    with EarlyStop(told), gate:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        # Waiting for a lock restarts after a signal's handler, as the store's wait does.
        gate.acquire(timeout=PATIENCE_SECONDS)


def after_the_handover() -> None:
    """Once the ranks are prepared, signals are torch's to handle."""
    seen: list[int] = []
    specs = SimpleNamespace(reify=lambda envs: ("reified", envs))
    with EarlyStop(told) as early:
        config: Any = SimpleNamespace(logs_specs=specs)
        early.end_with(config)
        print(json.dumps(specs.reify({0: {"A": "b"}})), flush=True)
        signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
        os.kill(os.getpid(), signal.SIGTERM)
    print(seen, flush=True)


def left_in_peace() -> None:
    """Without a signal the former handlers and the wakeup file are back at the end."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL), signal.getsignal(signal.SIGINT)
    with EarlyStop(told):
        pass
    after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    print(after == (signal.SIG_DFL, before[1]), signal.set_wakeup_fd(-1), flush=True)


def raising() -> None:
    """Let an error through."""
    try:
        with EarlyStop(told):
            {}["mine"]
    except KeyError as error:
        print(repr(error), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)


CASES: dict[str, Callable[[], None]] = {
    "SIGTERM": signalled(signal.SIGTERM),
    "SIGINT": signalled(signal.SIGINT),
    "blocked": blocked_in_c,
    "handed over": after_the_handover,
    "in peace": left_in_peace,
    "raising": raising,
}


def run(case: Callable[[], None]) -> tuple[int, str]:
    """Run a case in a child; return its exit code and output."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, sys.stdout.fileno())
        signal.alarm(30)
        case()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        output = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    results = {name: run(case) for name, case in CASES.items()}
    print(json.dumps(results))
