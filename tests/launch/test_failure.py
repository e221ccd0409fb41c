"""Which of seven numbers an error becomes: the operator decides about a retry from it alone."""

from __future__ import annotations

import signal

import pytest

from qwenft_trainer import failure
from qwenft_trainer.failure import (
    Cause,
    CommunicationFailure,
    DatasetInvalid,
    Hung,
    ModelInvalid,
    NumericError,
    OutOfMemory,
    PlanInvalid,
    Preempted,
    TrainerError,
    cause_of,
    cause_of_exit,
    classify,
    first_cause,
    last_lines,
)

KINDS = (
    TrainerError,
    Preempted,
    DatasetInvalid,
    PlanInvalid,
    ModelInvalid,
    NumericError,
    OutOfMemory,
    CommunicationFailure,
    Hung,
)


def named(name: str, base: type[Exception] = RuntimeError) -> type[Exception]:
    """Make a class that has one of torch's names, as an error of a rank has."""
    return type(name, (base,), {})


def raised(error: Exception, *, source: Exception) -> Exception:
    """Return the error as it is after ``raise error from source``."""
    error.__cause__ = source
    return error


def cause(code: int, time: float, *, rank: int = 0) -> Cause:
    return Cause(exit_code=code, reason=failure.REASONS[code], message="x", rank=rank, time=time)


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        (Preempted, 64, "Preempted"),
        (DatasetInvalid, 65, "DatasetInvalid"),
        (PlanInvalid, 66, "PlanInvalid"),
        (ModelInvalid, 66, "ModelInvalid"),
        (NumericError, 67, "NumericError"),
        (OutOfMemory, 68, "OutOfMemory"),
        (CommunicationFailure, 69, "CommunicationFailure"),
        (Hung, 69, "Hung"),
        (TrainerError, 70, "WorkerError"),
    ],
)
def test_each_kind_has_the_code_and_reason_of_the_contract(
    kind: type[TrainerError], code: int, reason: str
) -> None:
    found = cause_of(kind("sentence", step=7), rank=3, time=1.0, trace="")
    assert (found.exit_code, found.reason) == (code, reason)
    assert (found.message, found.rank, found.step) == ("sentence", 3, 7)


def test_every_code_from_64_to_70_has_a_reason_and_no_other_has() -> None:
    assert sorted(failure.REASONS) == list(range(64, 71))
    assert failure.REASONS[66] == "PlanInvalid"
    assert failure.REASONS[70] == "WorkerError"


@pytest.mark.parametrize("kind", KINDS)
def test_an_own_error_is_recognised_and_keeps_its_kind(kind: type[TrainerError]) -> None:
    assert classify(kind("x")) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (named("OutOfMemoryError")("CUDA out of memory"), OutOfMemory),
        (MemoryError("no room"), OutOfMemory),
        (named("DistBackendError")("NCCL error"), CommunicationFailure),
        (named("DistNetworkError")("refused"), CommunicationFailure),
        (named("DistStoreError")("key not set"), CommunicationFailure),
        (named("RendezvousTimeoutError")("late"), CommunicationFailure),
        (named("RendezvousConnectionError")("gone"), CommunicationFailure),
        (named("RendezvousClosedError")("closed"), CommunicationFailure),
        (ValueError("boom"), TrainerError),
        (KeyError("input_ids"), TrainerError),
        (ZeroDivisionError("division by zero"), TrainerError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_foreign_errors_are_recognised_by_their_class(
    error: Exception, kind: type[TrainerError]
) -> None:
    assert classify(error) is kind


def test_a_subclass_of_a_known_class_counts_as_that_class() -> None:
    base = named("DistNetworkError")
    assert classify(named("TheirOwnError", base)("x")) is CommunicationFailure


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711",
            CommunicationFailure,
        ),
        ("gloo/transport/tcp/pair.cc: Read error: Connection reset by peer", CommunicationFailure),
        ("gloo/transport/tcp/pair.cc: writev: Broken pipe", CommunicationFailure),
        (
            "gloo/transport/tcp/unbound_buffer.cc:84: Timed out waiting 90000ms",
            CommunicationFailure,
        ),
        ("ProcessGroupWrapper: monitored barrier timeout", CommunicationFailure),
        ("gloo: shape of tensors differs", TrainerError),
        ("the web server closed the connection: reset by peer", TrainerError),
        ("timeout of the user's own queue", TrainerError),
    ],
)
def test_only_a_lost_peer_of_gloo_makes_a_bare_runtime_error_a_communication_failure(
    text: str, kind: type[TrainerError]
) -> None:
    assert classify(RuntimeError(text)) is kind


def test_gloos_words_in_an_error_of_another_class_say_nothing() -> None:
    assert classify(ValueError("gloo: Connection closed by peer")) is TrainerError


def test_an_error_is_what_it_was_raised_from() -> None:
    inner = DatasetInvalid("record 3")
    outer = raised(RuntimeError("while loading"), source=inner)
    found = cause_of(outer, rank=0, time=0.0, trace="")
    assert (found.exit_code, found.reason) == (65, "DatasetInvalid")
    assert found.message == "RuntimeError: while loading"


def test_the_outermost_kind_that_is_known_wins() -> None:
    lost = RuntimeError("gloo: Connection closed by peer")
    assert classify(raised(NumericError("loss is nan"), source=lost)) is NumericError


def test_an_error_that_merely_came_up_while_another_was_handled_keeps_its_own_kind() -> None:
    error = ValueError("a bug in the handler")
    error.__context__ = DatasetInvalid("record 3")
    assert classify(error) is TrainerError


def test_a_circle_of_causes_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert classify(one) is TrainerError


def test_a_foreign_error_speaks_with_its_class_name_and_knows_no_step() -> None:
    found = cause_of(KeyError("labels"), rank=None, time=5.0, trace="t")
    assert found.message == "KeyError: 'labels'"
    assert (found.exit_code, found.step, found.rank, found.trace) == (70, None, None, "t")


@pytest.mark.parametrize(
    ("status", "oom", "code", "said"),
    [
        (-signal.SIGKILL, True, 68, "rank 1 was killed for memory by the kernel (SIGKILL)"),
        (-signal.SIGKILL, False, 70, "rank 1 killed by SIGKILL"),
        (-signal.SIGTERM, False, 64, "rank 1 was stopped by SIGTERM"),
        (-signal.SIGTERM, True, 64, "rank 1 was stopped by SIGTERM"),
        (-signal.SIGSEGV, True, 70, "rank 1 killed by SIGSEGV"),
        (-63, False, 70, "rank 1 killed by signal 63"),
        (1, False, 70, "rank 1 ended with exit code 1 and left no message"),
        (65, False, 65, "rank 1 ended with exit code 65 and left no message"),
        (67, True, 67, "rank 1 ended with exit code 67 and left no message"),
        (71, False, 70, "rank 1 ended with exit code 71 and left no message"),
        (137, False, 70, "rank 1 ended with exit code 137 and left no message"),
    ],
)
def test_a_bare_exit_status_says_what_can_be_known(
    *, status: int, oom: bool, code: int, said: str
) -> None:
    found = cause_of_exit(status, rank=1, out_of_memory=oom)
    assert (found.exit_code, found.message) == (code, said)
    assert found.reason == failure.REASONS[code]


def test_the_earliest_cause_is_the_first() -> None:
    late, early = cause(70, 20.0), cause(65, 10.0)
    assert first_cause([late, early]) is early


@pytest.mark.parametrize("other", [64, 65, 66, 67, 68, 70])
def test_a_lost_connection_is_never_the_cause_while_another_is_known(other: int) -> None:
    known = cause(other, 30.0, rank=5)
    peers = [cause(69, 10.0 + rank, rank=rank) for rank in range(4)]
    assert first_cause([*peers, known]) is known
    assert first_cause([known, *peers]) is known


@pytest.mark.parametrize("other", [65, 66, 67, 68, 70])
def test_ranks_that_were_told_to_stop_are_no_cause_while_a_real_one_is_known(other: int) -> None:
    known = cause(other, 30.0)
    assert first_cause([cause(64, 10.0), known, cause(64, 40.0)]) is known


def test_the_rank_that_kept_the_others_waiting_is_the_cause_before_all_that_waited() -> None:
    hung = cause_of(Hung("no sign of life"), rank=3, time=30.0, trace="")
    peers = [cause(69, 10.0), cause(64, 11.0), cause(69, 40.0)]
    assert first_cause([*peers, hung]) is hung
    assert first_cause([cause(70, 29.0), hung]).exit_code == 70


def test_where_all_lost_their_connection_the_first_to_lose_it_is_the_cause() -> None:
    assert first_cause([cause(69, 12.0, rank=1), cause(69, 11.0, rank=2)]).rank == 2


def test_a_cause_without_a_time_yields_to_one_with_a_time() -> None:
    unknown = cause_of_exit(1, rank=0)
    known = cause(70, 99.0, rank=1)
    assert first_cause([unknown, known]) is known
    assert first_cause([unknown.at(98.0), known]).rank == 0


@pytest.mark.parametrize(
    ("text", "limit", "kept"),
    [
        ("one\ntwo\nthree", 100, "one\ntwo\nthree"),
        ("one\ntwo\nthree", 9, "two\nthree"),
        ("one\ntwo\nthree", 8, "three"),
        ("one\ntwo\nthree", 4, ""),
        ("one\ntwo\n\n", 3, "two"),
        ("größe", 7, "größe"),
        ("größe", 6, ""),
        ("", 10, ""),
        ("name \udcff", 8, "name \udcff"),
    ],
)
def test_last_lines_keeps_whole_lines_counted_in_bytes(text: str, limit: int, kept: str) -> None:
    assert last_lines(text, limit) == kept
