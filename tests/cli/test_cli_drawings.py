"""The report's bars and time line: what is drawn is to scale, and readable without colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from qwenft_cli import drawings, page
from qwenft_cli.drawings import Pair, Span
from qwenft_cli.snapshot import of_run

NOW = datetime(2026, 1, 2, 4, 0, 0, tzinfo=UTC)


def widths(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"width:([\d.]+)%", text)]


def grown(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"flex-grow:([\d.]+)", text)]


def pair(predicted: float | None, measured: float | None, unit: str = "GiB") -> Pair:
    return Pair(what="Memory", predicted=predicted, measured=measured, unit=unit)


def test_bars_are_to_scale_and_leave_room_for_the_number() -> None:
    longer, shorter = widths(drawings.bars([pair(60.0, 30.0)]))
    assert longer == pytest.approx(2 * shorter)
    assert longer <= 75


def test_each_quantity_has_a_scale_of_its_own() -> None:
    found = widths(drawings.bars([pair(1.0, 1.0), pair(90_000.0, 45_000.0, "tokens/s")]))
    assert found[0] == found[1] == found[2] == pytest.approx(2 * found[3])


@pytest.mark.parametrize(
    ("predicted", "measured", "told"),
    [
        (2.0, 3.0, "measured 50% above the prediction"),
        (2.0, 1.0, "measured 50% below the prediction"),
        (2.0, 2.0, "measured 0% above the prediction"),
        (None, 1.0, ""),
        (2.0, None, ""),
        (0.0, 1.0, ""),
    ],
)
def test_the_verdict_is_in_words(
    predicted: float | None, measured: float | None, told: str
) -> None:
    assert pair(predicted, measured).verdict == told


def test_what_is_not_known_is_not_drawn() -> None:
    text = drawings.bars([pair(2.0, None), pair(None, None)])
    assert len(widths(text)) == 1
    assert "2 GiB" in text
    assert drawings.bars([pair(None, None)]) == ""
    assert drawings.bars([]) == ""


def test_large_numbers_are_written_out() -> None:
    assert "158,000 tokens/s" in drawings.bars([pair(158_000.4, None, "tokens/s")])


def test_a_share_is_shown_in_per_cent() -> None:
    text = drawings.bars([pair(0.412, 0.4, "%")])
    assert "41.2%" in text
    assert "40.0%" in text


def test_nothing_measured_as_zero_breaks_the_scale() -> None:
    assert widths(drawings.bars([pair(0.0, 0.0)])) == [0.0, 0.0]


def test_attempts_are_as_wide_as_they_took_long() -> None:
    spans = [
        Span(seconds=10.0, label="attempt 1", cause="NodeLost: <gone>"),
        Span(seconds=30.0, label="attempt 2"),
    ]
    text = drawings.timeline(spans)
    assert grown(text) == [10.0, 30.0]
    assert text.count('class="failed"') == 2, "on the strip and in the list"
    assert "NodeLost: &lt;gone&gt;" in text
    assert drawings.timeline([]) == ""


def test_a_clock_that_went_back_draws_no_negative_width() -> None:
    assert grown(drawings.timeline([Span(seconds=-5.0, label="attempt 1")])) == [0.0]


def body_of(make_run: Callable[..., dict[str, Any]], **status: Any) -> dict[str, Any]:
    return make_run(
        startTime="2026-01-02T03:00:00Z",
        failures=[
            {"attempt": 1, "reason": "NodeLost", "message": "a", "time": "2026-01-02T03:10:00Z"},
            {"attempt": 2, "reason": "WorkerError", "message": "b", "time": "2026-01-02T03:30:00Z"},
        ],
        **status,
    )


def drawn(body: dict[str, Any]) -> str:
    return page.page(body, of_run(body), [], [], NOW)


def test_the_page_puts_each_attempt_on_the_time_line(
    make_run: Callable[..., dict[str, Any]],
) -> None:
    text = drawn(body_of(make_run, phase="Training", attempt=3))
    assert grown(text) == [600.0, 1200.0, 1800.0]
    assert "attempt 3, 30m" in text


def test_a_run_that_failed_ends_with_its_last_failure(
    make_run: Callable[..., dict[str, Any]],
) -> None:
    text = drawn(body_of(make_run, phase="Failed", attempt=2))
    assert grown(text) == [600.0, 1200.0]


def test_a_run_without_a_failure_has_no_time_line(
    make_run: Callable[..., dict[str, Any]],
) -> None:
    text = drawn(make_run(phase="Training", startTime="2026-01-02T03:00:00Z"))
    assert "Attempts" not in text


def test_failures_without_a_time_are_listed_all_the_same(
    make_run: Callable[..., dict[str, Any]],
) -> None:
    text = drawn(make_run(phase="Failed", failures=[{"attempt": 1, "reason": "X", "message": "m"}]))
    assert "attempt 1: X: m" in text


def test_the_page_says_what_was_asked_and_where_it_ran(
    make_run: Callable[..., dict[str, Any]],
) -> None:
    body = make_run(phase="Training", workers={"pods": [{"node": "gpu-2"}, {"node": "gpu-1"}]})
    body["spec"] = {"model": {"name": "Qwen/Qwen1.5-7B"}, "training": {"batchSize": 64}}
    text = drawn(body)
    for told in ("Qwen/Qwen1.5-7B", "64", "gpu-1, gpu-2"):
        assert told in text


def test_the_alternatives_stand_below_the_bars(make_run: Callable[..., dict[str, Any]]) -> None:
    plan = {
        "summary": "shard 2", "reason": "fastest", "predicted": {"memoryGiB": 2.0},
        "alternatives": [{"summary": "replicate 2", "rejected": "slower"}],
    }  # fmt: skip
    text = drawn(make_run(phase="Training", plan=plan, measured={"memoryGiB": 1.0}))
    places = [text.index(word) for word in ("shard 2", "Predicted and measured", "replicate 2")]
    assert places == sorted(places)


def test_a_phone_gets_larger_letters_and_no_side_by_side() -> None:
    assert "@media (max-width: 40rem)" in page._STYLE
    assert "display: block" in page._STYLE
