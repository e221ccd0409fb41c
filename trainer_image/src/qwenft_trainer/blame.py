"""Errors that name the line of the user's script and the way out."""

import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from qwenft_trainer.failure import PlanInvalid

_PACKAGE = str(Path(__file__).parent)
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib"))


def refuse(what: str, way_out: str) -> NoReturn:
    """Raise :class:`PlanInvalid` for something that cannot work under a plan."""
    raise PlanInvalid(f"{user_line()}: {what}; {way_out}")


@contextmanager
def told_where() -> Iterator[None]:
    """Let an error of the plan name the user's line as well: the checks of plans know of none."""
    try:
        yield
    except PlanInvalid as error:
        raise PlanInvalid(f"{user_line()}: {error}") from error


def user_line() -> str:
    """Return ``file:line`` of the innermost frame that is the user's own code."""
    for frame in _frames():
        if is_user_s(frame):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return "the script"


def is_user_s(frame: FrameType) -> bool:
    """Tell whether a frame is the user's own code."""
    return not frame.f_code.co_filename.startswith(("<", _PACKAGE, *_LIBRARIES))


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - inspect.stack() reads every source file
    while frame is not None:
        yield frame
        frame = frame.f_back
