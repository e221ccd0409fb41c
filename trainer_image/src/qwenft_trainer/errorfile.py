"""The error file that a failing rank leaves for its launcher.

torch's agent and ``@record`` define where it lies and its outer shape; the entry ``qwenft`` beside
theirs carries the typed cause, so that nobody has to guess a reason from a text.
"""

import json
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from qwenft_trainer.failure import Cause, cause_of

NAME = "error.json"
TRACE_BYTES = 2048


class TypedErrorHandler(ErrorHandler):
    """Writes an exception's cause into the file that the agent named for this rank."""

    def record_exception(self, e: BaseException) -> None:
        """Write the error file whole or not at all: the agent may read at any moment."""
        path = self._get_error_file_path()
        if not path:
            return
        cause = describe(e)
        body = {
            "message": {
                "message": cause.message,
                "extraInfo": {"py_callstack": cause.trace, "timestamp": str(int(cause.time))},
            },
            "qwenft": asdict(cause),
        }
        part = Path(f"{path}.part")
        part.write_text(json.dumps(body), encoding="utf-8")
        part.replace(path)


def describe(error: BaseException) -> Cause:
    """Return the cause of an exception raised in this rank, with the end of its traceback."""
    trace = "".join(traceback.format_exception(error))[-TRACE_BYTES:]
    rank = os.environ.get("RANK")
    return cause_of(
        error,
        rank=int(rank) if rank is not None else None,
        time=time.time(),
        trace=trace,
    )


def read_all(directory: Path) -> Iterator[Cause]:
    """Yield the causes that this node's ranks left under the agent's log directory.

    Ranks that the agent saw die later are included: a rank that is slow to end may be the first
    that failed.
    """
    for path in sorted(directory.rglob(NAME)):
        try:
            yield Cause(**json.loads(path.read_text(encoding="utf-8"))["qwenft"])
        except (OSError, ValueError, KeyError, TypeError):
            # Written by a script's own @record, or cut off: the exit status still speaks.
            continue
