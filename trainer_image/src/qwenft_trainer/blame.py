"""Errors that name the line of the user's script and the way out."""

import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import NoReturn

from qwenft_trainer.failure import PlanInvalid, TrainerError

_PACKAGE = str(Path(__file__).parent)
_SHARDS = str(Path("torch", "distributed", "tensor"))
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


@contextmanager
def parts_explained() -> Iterator[None]:
    """Name the script's line where something fails because this rank holds parts only.

    Either torch fails on a sharded tensor, or the script on a gradient that another rank has.
    """
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:
        stack = list(walk_tb(error.__traceback__))
        mine = [place for place in stack if is_user_s(place[0])]
        if not mine or not _is_about_parts(error, stack[-1][0]):
            raise
        frame, line = mine[-1]
        told = next(iter(str(error).splitlines()), "")
        raise PlanInvalid(
            f"{frame.f_code.co_filename}:{line}: each rank holds a part of the parameters and "
            f"gradients, and this needs whole ones ({type(error).__name__}: {told}); take weights "
            "from model.state_dict(), a gradient's norm from clip_grad_norm_, a number from "
            "tensor.item() before you reckon with it, and pass over gradients that are None"
        ) from error


def _is_about_parts(error: Exception, innermost: FrameType) -> bool:
    if _SHARDS in innermost.f_code.co_filename or "DTensor" in str(error):
        return True
    return is_user_s(innermost) and str(error).startswith("'NoneType' object has no attribute")


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - inspect.stack() reads every source file
    while frame is not None:
        yield frame
        frame = frame.f_back
