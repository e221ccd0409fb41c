from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from qwenft_cli import curve, lines, page
from qwenft_cli.snapshot import of_run

Make = Callable[..., dict[str, Any]]
NOW = datetime(2026, 1, 2, 3, 5, 5, tzinfo=UTC)
VOID = {"meta", "link", "br", "img"}


class Reader(HTMLParser):
    """Reads a page as a browser does: text, nesting, and everything that it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [str(v) for k, v in attrs if k in {"src", "href"}]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an element without content."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def done(make_run: Make) -> dict[str, Any]:
    """Build a run that has trained, after one failed attempt."""
    return make_run(
        phase="Succeeded",
        attempt=2,
        restarts=1,
        plan={
            "summary": "2×1 CPU · shard 2",
            "reason": "fastest of 30",
            "predicted": {"memoryGiB": 0.4, "tokensPerSecond": 964.0},
            "alternatives": [{"summary": "replicate 2", "rejected": "1% slower"}],
        },
        measured={"memoryGiB": 1.2, "tokensPerSecond": 976.0},
        progress={"step": 3, "totalSteps": 3, "loss": 4.0},
        result={
            "validationLossBefore": 8.0, "validationLossAfter": 5.0, "trainedTokens": 1000,
            "outputPath": "/data/out/model",
        },
        failures=[{"attempt": 1, "reason": "NodeLost", "message": "node-1 went"}],
        startTime="2026-01-02T03:04:05Z",
        completionTime="2026-01-02T03:04:35Z",
    )  # fmt: skip


def made(body: dict[str, Any], losses: tuple[float, ...], events: list[dict[str, Any]]) -> str:
    log = [
        f'{{"attempt": 2, "step": {i}, "totalSteps": 3, "loss": {loss}, "tokensPerSecond": 900}}'
        for i, loss in enumerate(losses, start=1)
    ]
    return page.page(body, of_run(body), lines.reports(log), events, NOW)


def test_the_page_tells_the_whole_run(done: dict[str, Any], make_event: Make) -> None:
    events = [make_event("Succeeded", "trained 3 steps")]
    words = " ".join(read(made(done, (8.0, 6.0, 4.0), events)).words)
    for expected in (
        "tiny", "Succeeded", "30s since the start · 1 restart", "8.000 → 5.000", "1,000",
        "/data/out/model", "2×1 CPU · shard 2", "fastest of 30", "replicate 2", "1% slower",
        "0.4 GiB", "1.2 GiB", "measured 200% above the prediction", ": NodeLost: node-1 went",
        "Succeeded: trained 3 steps",
    ):  # fmt: skip
        assert expected in words


def test_an_evaluation_is_one_point_though_reports_repeat_it(done: dict[str, Any]) -> None:
    log = [
        f'{{"attempt": 1, "step": {step}, "totalSteps": 4, "loss": 5, "validationLoss": {loss}}}'
        for step, loss in ((0, 8.0), (1, 8.0), (2, 8.0), (3, 6.0), (4, 6.0))
    ]
    text = page.page(done, of_run(done), lines.reports(log), [], NOW)
    drawing = text[text.index("<svg") : text.index("</svg>") + len("</svg>")]
    assert len(points(drawing, "train")) == 5
    assert len(points(drawing, "held")) == 2


def test_the_last_report_comes_twice_and_is_one_point(done: dict[str, Any]) -> None:
    log = ['{"attempt": 1, "step": 1, "totalSteps": 2, "loss": 5}'] + [
        '{"attempt": 1, "step": 2, "totalSteps": 2, "loss": 4}'
    ] * 2
    text = page.page(done, of_run(done), lines.reports(log), [], NOW)
    drawing = text[text.index("<svg") : text.index("</svg>") + len("</svg>")]
    assert len(points(drawing, "train")) == 2


def test_the_page_fetches_nothing(done: dict[str, Any]) -> None:
    text = made(done, (8.0, 6.0), [])
    assert read(text).fetched == []
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_follows_the_reader_s_colours_and_width(done: dict[str, Any]) -> None:
    text = made(done, (), [])
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_what_comes_from_the_cluster_is_text(make_run: Make, make_event: Make) -> None:
    evil = "<script>alert(1)</script>"
    body = make_run(
        phase=evil,
        plan={"summary": evil, "reason": evil, "alternatives": [{"summary": evil}]},
        failure={"reason": evil, "message": evil},
        failures=[{"attempt": evil, "reason": evil, "message": evil}],
        result={"outputPath": evil, "validationLossBefore": 1.0, "validationLossAfter": 1.0},
    )
    text = made(body, (1.0,), [make_event(evil, evil)])
    assert evil not in text
    assert evil in " ".join(read(text).words)


def test_a_run_that_has_not_begun_has_a_page_too(make_run: Make) -> None:
    words = read(made(make_run(), (), [])).words
    assert "Pending" in words
    assert "Loss" not in words


def test_the_verb_writes_the_file(
    cluster: Any,
    qwenft: Callable[..., int],
    done: dict[str, Any],
    make_pod: Make,
    report_lines: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster.stored["tiny"] = done
    cluster.stored_pods = [make_pod(0, attempt=2)]
    cluster.logs["tiny-2-0-abcde"] = report_lines([8.0, 6.0, 4.0])
    target = tmp_path / "report.html"
    assert qwenft("report", "tiny", "-o", str(target)) == 0
    assert "wrote" in capsys.readouterr().out
    assert "polyline" in target.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_file_that_cannot_be_written_is_bad_input(
    cluster: Any,
    qwenft: Callable[..., int],
    done: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster.stored["tiny"] = done
    assert qwenft("report", "tiny", "-o", str(tmp_path / "gone" / "r.html")) == 2
    assert "r.html: No such file or directory" in capsys.readouterr().err


def points(text: str, name: str) -> list[tuple[float, float]]:
    """Return the corners of a drawn curve, as a browser would place them."""
    root = ET.fromstring(text)  # noqa: S314 - our own drawing
    for line in root.iter("polyline"):
        if line.get("class") == name:
            pairs = (pair.split(",") for pair in str(line.get("points")).split())
            return [(float(x), float(y)) for x, y in pairs]
    return []


def test_a_falling_loss_falls_on_the_page() -> None:
    drawn = points(curve.svg({"train": [(1, 8.0), (2, 6.0), (3, 4.0)]}, "step"), "train")
    assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)
    # In SVG down is up: a larger y lies lower.
    assert [y for _, y in drawn] == sorted(y for _, y in drawn)
    assert drawn[1][0] == pytest.approx((drawn[0][0] + drawn[2][0]) / 2, abs=0.1)


def test_curves_share_one_scale() -> None:
    text = curve.svg({"train": [(0, 0.0), (10, 10.0)], "held": [(5, 5.0)]}, "step")
    train, held = points(text, "train"), points(text, "held")
    assert held[0][0] == pytest.approx(sum(x for x, _ in train) / 2, abs=0.1)
    assert held[0][1] == pytest.approx(sum(y for _, y in train) / 2, abs=0.1)


def test_every_point_lies_in_the_frame() -> None:
    drawn = points(curve.svg({"train": [(i, (-1) ** i * i) for i in range(50)]}, "step"), "train")
    assert all(96 <= x <= 628 and 12 <= y <= 212 for x, y in drawn)


def test_a_floor_makes_small_changes_small() -> None:
    text = curve.svg({"train": [(0, 100.0), (1, 99.0)]}, "step", floor=0.0)
    (_, first), (_, last) = points(text, "train")
    assert last - first == pytest.approx(0.01 * 200, abs=0.1)
    assert letters(text)[:2] == ["100", "0"]


def test_one_point_is_drawn_in_the_middle() -> None:
    assert points(curve.svg({"train": [(1, 1.0)]}, "step"), "train") == [(362.0, 112.0)]


def test_points_that_are_no_numbers_are_left_out() -> None:
    series = [(1, 1.0), (2, float("nan")), (3, float("inf")), (4, 2.0)]
    assert len(points(curve.svg({"train": series}, "step"), "train")) == 2


def test_no_points_draw_nothing() -> None:
    assert curve.svg({"train": [], "held": [(1, float("nan"))]}, "step") == ""


def letters(drawing: str) -> list[str]:
    return [str(item.text) for item in ET.fromstring(drawing).iter("text")]  # noqa: S314 - ours


def test_steps_are_whole_and_large_numbers_have_no_decimals() -> None:
    drawing = curve.svg({"train": [(0, 150_605.4), (395, 151_000.9)]}, "step")
    assert letters(drawing) == ["151,001", "150,605", "step 0", "395"]
    assert letters(curve.svg({"train": [(1, 1.4), (2, 2.3)]}, "step"))[:2] == ["2.300", "1.400"]


@pytest.mark.parametrize("high", [9.99999, 123.456, 151_000.0, 999_999.0])
def test_the_words_at_the_left_fit_a_phone_s_letters(high: float) -> None:
    size = 20
    assert f"font-size: {size}px" in page._STYLE
    for word in letters(curve.svg({"train": [(0, 0.5), (1, high)]}, "step"))[:2]:
        assert len(word) * size * 0.62 <= curve._LEFT - 6, word
