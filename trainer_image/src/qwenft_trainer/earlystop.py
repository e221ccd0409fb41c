"""Ending a launcher that is told to stop while it still waits for the other nodes.

The wait happens inside torch's C++ store, where Python signal handlers do not run, and as process 1
of a container the launcher would not even die of SIGTERM. A thread reads the signals' numbers from
a pipe instead, until the ranks are there; from then on torch's agent handles signals.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from torch.distributed.launcher.api import LaunchConfig

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class EarlyStop:
    """Context in which SIGTERM and SIGINT end the process at once, until the ranks start.

    ``on_stop`` gets the signal's name, does what is to be done and returns the exit code.
    """

    def __init__(self, on_stop: Callable[[str], int]) -> None:
        self._on_stop = on_stop
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="early-stop")

    def __enter__(self) -> Self:
        """Start listening."""
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        # A handler must be set for the number to be written; it has nothing left to do.
        self._previous = {number: signal.signal(number, _ignore) for number in SIGNALS}
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the handlers back that were there before."""
        self._end()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def end_with(self, config: LaunchConfig) -> None:
        """Hand over to torch's agent in the moment when it prepares to start the ranks."""
        specs: Any = config.logs_specs
        reify = specs.reify

        def reify_and_end(envs: dict[int, dict[str, str]]) -> object:
            self._end()
            return reify(envs)

        specs.reify = reify_and_end

    def _end(self) -> None:
        if self._thread.is_alive():
            signal.set_wakeup_fd(self._previous_fd)
            os.write(self._write, b"\0")
            self._thread.join()

    def _watch(self) -> None:
        number = os.read(self._read, 1)[0]
        if number:
            code = self._on_stop(signal.Signals(number).name)
            sys.stderr.flush()
            os._exit(code)


def _ignore(*_: object) -> None:
    """Do nothing: the thread acts."""
