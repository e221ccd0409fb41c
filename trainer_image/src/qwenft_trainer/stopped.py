"""Noticing from the launcher that a rank's process is stopped, as by SIGSTOP or a debugger.

It lives, so torch's agent waits for it, and its own watchdog is stopped with it. Its peers could
only tell of their own waiting: so the launcher looks, ends the rank and says which it was.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from qwenft_trainer import errorfile, watchdog
from qwenft_trainer.failure import SILENCE, Cause, Hung, cause_of
from qwenft_trainer.mesh import STEP

STOPPED = {"T": "stopped", "t": "stopped by a tracer"}
"""The kernel's letters for a process that is not run until somebody says so."""
_LOOKS = 20
"""In the time of the limit."""


class Lookout:
    """Watches one rank's process; torch's agent asks it whenever it asks for the exit code."""

    def __init__(
        self,
        pid: int,
        environ: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        state: Callable[[int], str] | None = None,
    ) -> None:
        """``environ``: the rank's, with its number, the path of its error file and the limit."""
        self._pid, self._environ = pid, environ
        self._limit = _limit(environ)
        self._clock, self._state = clock, state or state_of
        self._next, self._since = float("-inf"), float("inf")

    def look(self) -> None:
        """End the rank if it has been stopped for longer than the limit."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._limit / _LOOKS
        state = self._state(self._pid)
        self._since = min(self._since, now) if state in STOPPED else float("inf")
        if now - self._since > self._limit:
            self._end(self._cause(now - self._since, state))

    def _cause(self, seconds: float, state: str) -> Cause:
        rank = self._environ.get("RANK", "")
        error = Hung(
            f"{SILENCE} for {seconds:.0f} s (limit {self._limit:.0f} s): the process of rank "
            f"{rank or '?'} is {STOPPED[state]} (state {state}), as by SIGSTOP or a debugger"
        )
        number = int(rank) if rank.isdecimal() else None
        return cause_of(error, rank=number, time=time.time(), trace="")

    def _end(self, cause: Cause) -> None:
        path = self._environ.get("TORCHELASTIC_ERROR_FILE")
        if path:
            errorfile.leave(cause, Path(path))
        # No other signal reaches a process that is stopped; it leads a group of its own.
        os.killpg(self._pid, signal.SIGKILL)


def _limit(environ: Mapping[str, str]) -> float:
    """Return the seconds that a process may be stopped: its peers do not wait for long."""
    limit = watchdog.limit_of(environ)
    peers = STEP.total_seconds() * watchdog.EARLY
    return min(limit, peers) if watchdog.has_peers(environ) else limit


def state_of(pid: int) -> str:
    """Return the kernel's letter for a process' state, empty for one that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name before it, in parentheses, may hold anything.
    return text.rpartition(")")[2].split()[0]
