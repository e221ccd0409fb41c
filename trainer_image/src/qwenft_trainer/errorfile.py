"""The error file that a failing rank leaves for its launcher.

torch's agent and ``@record`` define where it lies and its outer shape; the entry ``qwenft`` beside
theirs carries the typed cause, so that nobody has to guess a reason from a text.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from qwenft_trainer.failure import (
    Cause,
    OutOfMemory,
    TrainerError,
    cause_of,
    named_cause,
)

NAME = "error.json"
WORD = "silence.json"
"""What a rank leaves beside it while it shows no sign of life: it may not be asked any more."""
TRACE_BYTES = 2048
GIB = 1024**3


class TypedErrorHandler(ErrorHandler):
    """Writes an exception's cause into the file that the agent named for this rank."""

    def record_exception(self, e: BaseException) -> None:
        """Write the error file whole or not at all: the agent may read at any moment."""
        self._leave(describe(e))

    def record_stall(self, error: BaseException, stack: str) -> None:
        """Leave the cause of a rank that stands still; ``stack`` is where."""
        self._leave(_stalled(error, stack))

    def leave_word(self, error: BaseException, stack: str) -> Path | None:
        """Leave where this rank stands still as yet; return the file, None where there is none."""
        path = self._get_error_file_path()
        if not path:
            return None
        word = Path(path).with_name(WORD)
        leave(_stalled(error, stack), word)
        return word

    def _leave(self, cause: Cause) -> None:
        path = self._get_error_file_path()
        if path:
            leave(cause, Path(path))


def _stalled(error: BaseException, stack: str) -> Cause:
    # The innermost call comes first in a dump; of a trace the last lines are kept.
    lines = "\n".join(reversed(stack.splitlines()))[-TRACE_BYTES:]
    return replace(describe(error), trace=lines)


def leave(cause: Cause, path: Path) -> None:
    """Write a rank's error file, in torch's shape and with the typed cause beside it."""
    body = {
        "message": {
            "message": cause.message,
            "extraInfo": {"py_callstack": cause.trace, "timestamp": str(int(cause.time))},
        },
        "qwenft": asdict(cause),
    }
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(body), encoding="utf-8")
    part.replace(path)


def describe(error: BaseException) -> Cause:
    """Return the cause of an exception raised in this rank, with the end of its traceback.

    Where the device ran out of memory, its figures are added, and torch's table goes to the log.
    """
    trace = "".join(traceback.format_exception(error))[-TRACE_BYTES:]
    rank = os.environ.get("RANK")
    cause = cause_of(
        error,
        rank=int(rank) if rank is not None else None,
        time=time.time(),
        trace=trace,
    )
    if cause.exit_code == OutOfMemory.exit_code:
        figures = device_memory()
        cause = replace(cause, message=f"{cause.message}{figures}")
    return cause


def device_memory(cuda: Any = torch.cuda) -> str:
    """Return what this process holds of its GPU, for a message; empty without one.

    torch's own table of it is printed to the log.
    """
    if not cuda.is_available() or not cuda.is_initialized():
        return ""
    try:
        free, total = cuda.mem_get_info()
        numbers = {
            "tensors": cuda.memory_allocated(),
            "tensors at the peak": cuda.max_memory_allocated(),
            "reserved": cuda.memory_reserved(),
            "free on the device": free,
            "of": total,
        }
        print(cuda.memory_summary(abbreviated=True), file=sys.stderr, flush=True)  # noqa: T201
    except RuntimeError as error:
        # A device that failed may answer no question any more; the error is told all the same.
        return f" (its memory cannot be read: {error})"
    told = ", ".join(f"{name} {value / GIB:.2f} GiB" for name, value in numbers.items())
    return f" ({told})"


def read_all(directory: Path, ranks: Mapping[int, int] | None = None) -> Iterator[Cause]:
    """Yield the causes that this node's ranks left under the agent's log directory.

    Ranks that the agent saw die later are included: a rank that is slow to end may be the first
    that failed. A file in torch's shape alone is the work of a script's own ``@record``. ``ranks``
    maps local to global ranks, for files that do not tell.
    """
    for path in sorted(directory.rglob(NAME)):
        try:
            text, time_written = path.read_text("utf-8", "replace"), path.stat().st_mtime
        except OSError:
            continue
        local = int(path.parent.name) if path.parent.name.isdigit() else None
        rank = local if local is None else (ranks or {}).get(local, local)
        yield _read(text, rank, time_written)


def read_words(directory: Path) -> Iterator[Cause]:
    """Yield where those of this node's ranks stood still that left nothing else."""
    for path in sorted(directory.rglob(WORD)):
        if path.with_name(NAME).exists():
            continue
        with suppress(OSError):  # the rank has gone on, and taken its word back
            text, time_written = path.read_text("utf-8", "replace"), path.stat().st_mtime
            yield _read(text, None, time_written)


def _read(text: str, rank: int | None, time_written: float) -> Cause:
    try:
        body = json.loads(text)
        if "qwenft" in body:
            return Cause(**body["qwenft"])
        return _of_torch(body["message"], rank, time_written)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Cut off, or written by something else: better its first words than nothing. Without a
        # time it gives way to every cause that can be read.
        begin = text.strip()[:TRACE_BYTES] or "(nothing)"
        message = f"rank {rank} left an error file that cannot be read; it begins: {begin}"
        code, reason = TrainerError.exit_code, TrainerError.reason
        return Cause(exit_code=code, reason=reason, message=message, rank=rank)


def _of_torch(message: Any, rank: int | None, time_written: float) -> Cause:
    """Read torch's own shape: a text, or one with the stack and the time."""
    if isinstance(message, str):
        return named_cause(message, rank=rank, time=time_written)
    extra = message.get("extraInfo") or {}
    return named_cause(
        str(message["message"]),
        rank=rank,
        time=float(extra.get("timestamp") or time_written),
        trace=str(extra.get("py_callstack") or "")[-TRACE_BYTES:],
    )
