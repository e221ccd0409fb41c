"""The kubelet keeps 4096 bytes: what is in them must be whole JSON that names the cause."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_trainer.failure import MESSAGE_LIMIT, Cause, completed

any_text = st.text(max_size=6000) | st.text(alphabet='\x00\udcff🙂ä\\"\n', max_size=4000)


def message(text: str, *, trace: str = "", step: int | None = None) -> dict[str, Any]:
    """Return what the kubelet would keep of a cause, read back."""
    cause = Cause(
        exit_code=70, reason="WorkerError", message=text, rank=2, step=step, time=1.0, trace=trace
    )
    kept = cause.to_message().encode()[:MESSAGE_LIMIT]
    body = json.loads(kept)
    assert isinstance(body, dict)
    return body


def trace_of(lines: int, *, width: int = 60) -> str:
    return "\n".join(f"{number:04d} {'x' * width}" for number in range(lines))


def test_a_short_cause_is_told_whole() -> None:
    assert message("ValueError: boom", trace="line 1\nline 2", step=4) == {
        "exitCode": 70,
        "reason": "WorkerError",
        "message": "ValueError: boom",
        "rank": 2,
        "step": 4,
        "trace": "line 1\nline 2",
    }


def test_what_is_unknown_is_null() -> None:
    body = json.loads(Cause(exit_code=69, reason="CommunicationFailure", message="x").to_message())
    assert body["rank"] is None
    assert body["step"] is None


@pytest.mark.parametrize("lines", [40, 200, 5000])
def test_a_long_trace_keeps_its_last_lines(lines: int) -> None:
    kept = message("boom", trace=trace_of(lines))["trace"].splitlines()
    assert kept == trace_of(lines).splitlines()[-len(kept) :]
    assert 20 <= len(kept) < lines


def test_a_long_message_loses_its_middle_only() -> None:
    text = f"BEGIN {'m' * 50_000} END"
    kept = message(text)["message"]
    assert kept.startswith("BEGIN mmm")
    assert kept.endswith("mmm END")
    assert " … " in kept


def test_a_long_message_leaves_room_for_the_last_lines() -> None:
    body = message("m" * 50_000, trace=trace_of(100))
    assert body["trace"].splitlines()[-1] == trace_of(100).splitlines()[-1]


def test_a_message_that_just_fits_is_left_alone() -> None:
    text = "m" * (MESSAGE_LIMIT // 2 - 2)
    assert message(text)["message"] == text


@pytest.mark.parametrize(
    "text", ["🙂" * 3000, "\x00" * 3000, "ä" * 3000, '"' * 9000, "\\" * 9000, "\udcff" * 3000]
)
def test_text_that_grows_when_escaped_still_fits(text: str) -> None:
    body = message(text, trace=f"{text}\n{text[:40]}")
    assert body["message"][0] == text[0]
    assert body["message"][-1] == text[-1]
    assert body["trace"].splitlines() in ([], [text[:40]])


@settings(max_examples=60, deadline=None)
@given(text=any_text, trace=any_text)
def test_whatever_the_words_the_message_is_whole_json_within_the_limit(
    text: str, trace: str
) -> None:
    body = message(text, trace=trace)
    assert (body["exitCode"], body["reason"], body["rank"]) == (70, "WorkerError", 2)
    assert set(body) == {"exitCode", "reason", "message", "rank", "step", "trace"}


def test_a_finished_run_tells_its_result() -> None:
    result = {"steps": 80, "validationLossAfter": 5.41, "outputPath": "/data/out/model"}
    assert json.loads(completed(result)) == {
        "exitCode": 0,
        "reason": "Completed",
        "result": result,
    }


def test_a_finished_script_without_a_result_tells_an_empty_one() -> None:
    assert json.loads(completed(None))["result"] == {}


def test_a_long_sample_is_dropped_so_that_the_numbers_arrive() -> None:
    result = {
        "steps": 80,
        "sample": {"prompt": "字" * 900, "continuation": "x"},
        "outputPath": "/o",
    }
    kept = json.loads(completed(result).encode()[:MESSAGE_LIMIT])
    assert kept["result"] == {"steps": 80, "outputPath": "/o"}
