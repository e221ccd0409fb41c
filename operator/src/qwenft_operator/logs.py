"""Which run a log line is about: set once a look, carried by every line that is written in it.

The JSON format shows all fields of a record; so a line can be found by ``run`` and ``attempt``,
whatever module wrote it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["about", "install", "on_attempt"]

_PLAIN = logging.getLogRecordFactory()
_RUN: ContextVar[str] = ContextVar("run", default="")
_ATTEMPT: ContextVar[int | None] = ContextVar("attempt", default=None)


@contextmanager
def about(run: str) -> Iterator[None]:
    """Mark what is logged inside as being about ``run``, written ``namespace/name``."""
    run_token, attempt_token = _RUN.set(run), _ATTEMPT.set(None)
    try:
        yield
    finally:
        _RUN.reset(run_token)
        _ATTEMPT.reset(attempt_token)


def on_attempt(attempt: int) -> None:
    """Mark what is logged from here to the end of the look with the attempt's number."""
    _ATTEMPT.set(attempt)


def _marked(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _PLAIN(*args, **kwargs)
    if run := _RUN.get():
        record.run = run
        attempt = _ATTEMPT.get()
        if attempt is not None:
            record.attempt = attempt
    return record


def install() -> None:
    """Have every record of this process carry the marks."""
    logging.setLogRecordFactory(_marked)
