"""Why a run ends: typed errors, exit codes 64 to 70, and the JSON of the termination message.

The operator decides about a retry from these numbers alone, so each class below stands for one
decision: data and plan errors stop the run, preemption and lost connections start it again. No
torch is imported here: torch's own errors are recognised by the names of their classes.
"""

import json
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

MESSAGE_LIMIT = 4096
"""Bytes that the kubelet keeps of a termination message."""

COMPLETED = "Completed"
UNKNOWN_TIME = float("inf")
SILENCE = "no sign of life"
"""How the message of a rank that stands still begins."""


class TrainerError(Exception):
    """An error whose exit code and reason are known; the base class is "some other error"."""

    exit_code: ClassVar[int] = 70
    reason: ClassVar[str] = "WorkerError"

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class Preempted(TrainerError):  # noqa: N818 - the names are the reasons in the status
    """The pod was asked to stop (SIGTERM) and has saved what it could: code 64."""

    exit_code = 64
    reason = "Preempted"


class DatasetInvalid(TrainerError):  # noqa: N818
    """The dataset is missing, damaged or does not fit the model: code 65, no retry helps."""

    exit_code = 65
    reason = "DatasetInvalid"


class OutputInvalid(TrainerError):  # noqa: N818
    """The store refuses the output, for good: no such bucket, no right. Code 65, as for data."""

    exit_code = 65
    reason = "OutputInvalid"


class PlanInvalid(TrainerError):  # noqa: N818
    """The plan does not fit the processes, the model or the script: code 66."""

    exit_code = 66
    reason = "PlanInvalid"


class ModelInvalid(TrainerError):  # noqa: N818
    """The model directory is missing, damaged or another than the one planned for: code 66."""

    exit_code = 66
    reason = "ModelInvalid"


class NumericError(TrainerError):
    """The loss or the gradient is not finite: code 67."""

    exit_code = 67
    reason = "NumericError"


class OutOfMemory(TrainerError):  # noqa: N818
    """A device or the container ran out of memory: code 68."""

    exit_code = 68
    reason = "OutOfMemory"


class CommunicationFailure(TrainerError):  # noqa: N818
    """Another rank or the rendezvous could not be reached: code 69."""

    exit_code = 69
    reason = "CommunicationFailure"


class Hung(CommunicationFailure):
    """A rank stands still itself and keeps the others waiting: code 69, never a consequence."""

    reason = "Hung"


REASONS: Mapping[int, str] = {
    kind.exit_code: kind.reason
    for kind in (
        TrainerError,
        Preempted,
        DatasetInvalid,
        PlanInvalid,
        NumericError,
        OutOfMemory,
        CommunicationFailure,
    )
}
"""Exit code to reason, where a bare code is all that a process left behind."""

_MEMORY_CLASSES = frozenset({"OutOfMemoryError", "MemoryError"})
_NETWORK_CLASSES = frozenset(
    {
        "DistBackendError",
        "DistNetworkError",
        "DistStoreError",
        "RendezvousClosedError",
        "RendezvousConnectionError",
        "RendezvousTimeoutError",
    },
)
# gloo raises a bare RuntimeError; only its text tells a lost peer from a bug in a script.
_GLOO_TEXTS = ("gloo", "ProcessGroup")
_PEER_TEXTS = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "timeout")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Why one process ended.

    ``rank`` is the global rank, ``step`` the optimizer step if known, ``time`` seconds since the
    epoch (for finding the first of several), ``trace`` the end of the traceback.
    """

    exit_code: int
    reason: str
    message: str
    rank: int | None = None
    step: int | None = None
    time: float = UNKNOWN_TIME
    trace: str = ""

    def to_message(self) -> str:
        """Render the JSON termination message, shortened to what the kubelet keeps."""
        fields: dict[str, object] = {
            "exitCode": self.exit_code,
            "reason": self.reason,
            "message": self.message,
            "rank": self.rank,
            "step": self.step,
        }
        return _fit(fields, trace=self.trace)

    def at(self, time: float) -> "Cause":
        """Return the same cause with a time, seconds since the epoch."""
        return replace(self, time=time)


def completed(result: Mapping[str, object] | None) -> str:
    """Render the termination message of a finished run; ``result`` as the trainer wrote it.

    Where all of it is more than the kubelet keeps, only the numbers and short texts are told.
    """
    body = {"exitCode": 0, "reason": COMPLETED, "result": dict(result or {})}
    text = json.dumps(body)
    if len(text) > MESSAGE_LIMIT:
        text = json.dumps({**body, "result": _short_entries(result or {})})
    return text


def classify(error: BaseException) -> type[TrainerError]:
    """Find the kind of an error, looking through what it was raised from."""
    for link in _chain(error):
        if isinstance(link, TrainerError):
            return type(link)
        names = {kind.__name__ for kind in type(link).__mro__}
        if names & _MEMORY_CLASSES:
            return OutOfMemory
        if names & _NETWORK_CLASSES or _is_gloo_disconnect(link):
            return CommunicationFailure
    return TrainerError


def cause_of(error: BaseException, *, rank: int | None, time: float, trace: str) -> Cause:
    """Describe an error raised in this process; our own errors speak without their class name."""
    kind = classify(error)
    text = str(error)
    own = isinstance(error, TrainerError)
    return Cause(
        exit_code=kind.exit_code,
        reason=kind.reason,
        message=text if own else f"{type(error).__name__}: {text}",
        rank=rank,
        step=error.step if isinstance(error, TrainerError) else None,
        time=time,
        trace=trace,
    )


def named_cause(
    text: str, *, rank: int | None, time: float = UNKNOWN_TIME, trace: str = ""
) -> Cause:
    """Describe an error of which only ``ClassName: text`` is left."""
    name = text.split(":", 1)[0].rpartition(".")[2]
    kind: type[TrainerError] = TrainerError
    if name in _MEMORY_CLASSES:
        kind = OutOfMemory
    elif name in _NETWORK_CLASSES or _is_gloo_disconnect(RuntimeError(text)):
        kind = CommunicationFailure
    return Cause(
        exit_code=kind.exit_code,
        reason=kind.reason,
        message=text,
        rank=rank,
        time=time,
        trace=trace,
    )


def cause_of_exit(exit_code: int, *, rank: int | None, out_of_memory: bool = False) -> Cause:
    """Describe a process that left nothing but its exit status (negative: killed by a signal).

    ``out_of_memory`` says that the kernel's out-of-memory killer was at work in this container.
    """
    if exit_code == -signal.SIGKILL and out_of_memory:
        code, text = OutOfMemory.exit_code, "was killed for memory by the kernel (SIGKILL)"
    elif exit_code == -signal.SIGTERM:
        # The agent stops the peers of a dead rank this way, and so does a node that is drained.
        code, text = Preempted.exit_code, "was stopped by SIGTERM"
    elif exit_code < 0:
        code, text = TrainerError.exit_code, f"killed by {_signal_name(-exit_code)}"
    else:
        code = exit_code if exit_code in REASONS else TrainerError.exit_code
        text = f"ended with exit code {exit_code} and left no message"
    return Cause(exit_code=code, reason=REASONS[code], message=f"rank {rank} {text}", rank=rank)


def first_cause(causes: Iterable[Cause]) -> Cause:
    """Pick the one that brought the others down.

    The earliest that is not a mere lost connection, since every peer of a dead rank reports one;
    a preemption comes last but one: ranks that were told to stop say nothing about the reason.
    """
    return min(causes, key=lambda cause: (_weight(cause), cause.time))


def _weight(cause: Cause) -> int:
    if cause.reason == Hung.reason:
        return 0
    return {CommunicationFailure.exit_code: 2, Preempted.exit_code: 1}.get(cause.exit_code, 0)


def last_lines(text: str, limit: int) -> str:
    """Keep the last whole lines of a text that fit into ``limit`` bytes."""
    kept: list[str] = []
    for line in reversed(text.strip().splitlines()):
        # File names that are no UTF-8 stand in a traceback as lone surrogates.
        if len("\n".join((line, *kept)).encode(errors="surrogatepass")) > limit:
            break
        kept.insert(0, line)
    return "\n".join(kept)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _is_gloo_disconnect(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, RuntimeError) and _any(_GLOO_TEXTS, text) and _any(_PEER_TEXTS, text)


def _any(words: Sequence[str], text: str) -> bool:
    return any(word in text for word in words)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _fit(fields: dict[str, object], *, trace: str) -> str:
    """Shorten the message first in its middle, then give the rest of the room to the trace."""
    message = str(fields["message"])
    room = MESSAGE_LIMIT // 2
    if len(json.dumps(message)) > room:
        message = _shorten(message, room)
    body = {**fields, "message": message}
    for limit in (2048, 1024, 512, 0):
        text = json.dumps({**body, "trace": last_lines(trace, limit)})
        if len(text.encode()) <= MESSAGE_LIMIT:
            break
    return text


def _short_entries(result: Mapping[str, object]) -> dict[str, object]:
    limit = MESSAGE_LIMIT // 16
    return {name: value for name, value in result.items() if len(json.dumps(value)) <= limit}


def _shorten(message: str, room: int) -> str:
    """Cut the middle out; half of the room at each end, counted as escaped JSON."""
    head, tail = message, message
    while len(json.dumps(head)) > room // 2:
        head = head[: len(head) * 3 // 4]
    while len(json.dumps(tail)) > room // 2:
        tail = tail[len(tail) // 4 + 1 :]
    return f"{head} … {tail}"
