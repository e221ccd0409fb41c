"""Noticing from within that this rank stands still: show where, and end with a typed exit.

A rank that hangs, and its peers, which wait for it in a collective, would otherwise hold all nodes
until somebody looks. Every rank watches itself. One that waits for others gives them the first
word, so that the termination message shows the stack of the rank that keeps the others waiting.
A rank whose whole process is stopped cannot: its launcher watches for that (:mod:`stopped`).

Peers wait in a collective for no longer than :data:`mesh.STEP`, often less than the limit here. So
a rank that stands still outside of one leaves word of it early, for its launcher to tell if it has
to end it.
"""

import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

import torch

from qwenft_trainer import errorfile
from qwenft_trainer.failure import SILENCE, CommunicationFailure, Hung
from qwenft_trainer.mesh import SET_UP, STEP

LIMIT_VARIABLE = "QWENFT_STALL_SECONDS"
LIMIT_SECONDS = 600.0
"""A rank that shows no sign of life for so long stands still, however fast its steps are."""
STEPS = 4.5
"""As many times a usual step may pass without a sign of life.

With the courtesy below it is less than the five after which the operator gives the attempt up, who
knows neither the rank nor its stack.
"""
FIRST = 3.0
"""As many times the limit, before the first step has ended: layers are compiled."""
FILES = 3.0
"""The patience with what writes gigabytes to a volume."""
EARLY = 0.5
"""Share of the time for which peers wait in a collective, after which word is left."""
COURTESY = 0.1
"""Share of the limit by which a rank that waits for others lets them speak first."""
_PAUSES = 20
_WAITING = (str(Path(torch.__file__).parent), str(Path(__file__).with_name("train.py")))


class Watchdog:
    """Context in which a silence of :meth:`beat` ends this rank, by default with exit code 69.

    ``step_seconds`` is asked for the usual duration of a step, None before one has ended. ``end``
    gets the error; it does not return.
    """

    def __init__(
        self,
        step_seconds: Callable[[], float | None],
        *,
        least: float | None = None,
        end: Callable[[CommunicationFailure, str], None] | None = None,
    ) -> None:
        self._least = least or limit_of(os.environ)
        self._step_seconds = step_seconds
        self._end = end or _leave
        self._watched = threading.get_ident()
        self._last, self._doing, self._patience = time.monotonic(), "preparing", 1.0
        self._over = threading.Event()
        self._word: Path | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> Self:
        """Start watching the calling thread."""
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()

    def beat(self, doing: str, *, patience: float = 1.0) -> None:
        """Give a sign of life; ``doing`` says what begins now.

        ``patience``: as many times the usual limit may it take.
        """
        self._last, self._doing, self._patience = time.monotonic(), doing, patience
        if self._word is not None:
            self._word.unlink(missing_ok=True)
            self._word = None

    @property
    def limit(self) -> float:
        """Seconds of silence after which this rank stands still."""
        usual = self._step_seconds()
        if usual is None:
            return FIRST * self._least
        return self._patience * max(self._least, STEPS * usual)

    def _watch(self) -> None:
        while not self._over.wait(self._least / _PAUSES):
            silence, limit = time.monotonic() - self._last, self.limit
            if silence <= min(limit, self._early):
                continue
            frame = sys._current_frames().get(self._watched)  # noqa: SLF001 - of another thread
            waits = has_peers(os.environ) and waits_for_others(frame)
            if waits:
                limit *= 1 + COURTESY
            told = f"{SILENCE} for {silence:.0f} s while {self._doing} (limit {limit:.0f} s)"
            if silence > limit:
                self._end(_error(told, waits=waits), stacks())
                return
            if not waits and self._word is None:
                text = main_stack(stacks())
                self._word = errorfile.TypedErrorHandler().leave_word(Hung(told), text)

    @property
    def _early(self) -> float:
        """Seconds of silence before any peer has waited in vain."""
        theirs = SET_UP if self._step_seconds() is None else STEP
        return EARLY * self._patience * theirs.total_seconds()


def limit_of(environ: Mapping[str, str]) -> float:
    """Return the seconds after which a rank of fast steps stands still."""
    return float(environ.get(LIMIT_VARIABLE) or LIMIT_SECONDS)


def has_peers(environ: Mapping[str, str]) -> bool:
    """Whether there is any other rank to wait for."""
    return environ.get("WORLD_SIZE", "1") != "1"


def _error(told: str, *, waits: bool) -> CommunicationFailure:
    if waits:
        return CommunicationFailure(f"{told}; it waits inside torch, as ranks do for one another")
    return Hung(told)


def waits_for_others(frame: FrameType | None) -> bool:
    """Tell whether a thread is inside torch or the loop itself, where collectives are waited for.

    One that hangs in the reading of data or of a file is not: it keeps the others waiting.
    """
    return frame is not None and frame.f_code.co_filename.startswith(_WAITING)


def stacks() -> str:
    """Return the stacks of all threads, the watched rank's main thread among them."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        return file.read()


def main_stack(text: str) -> str:
    """Return the main thread's lines of a dump, innermost first: it is the last one."""
    return text.strip().split("\n\n")[-1]


def _leave(error: CommunicationFailure, text: str) -> NoReturn:
    """Show all stacks, leave the cause for the launcher, and end this process."""
    print(f"watchdog: {error}\n{text}", file=sys.stderr, flush=True)  # noqa: T201 - the pod's log
    errorfile.TypedErrorHandler().record_stall(error, main_stack(text))
    os._exit(error.exit_code)
