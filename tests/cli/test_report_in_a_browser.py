"""The report as Chromium draws it: on a phone and on a desk, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from browsing import Picture, shoot
from qwenft_cli import page
from qwenft_cli.snapshot import of_run
from qwenft_plan.progress import Progress

pytestmark = pytest.mark.full
PHONE, DESK = 500, 1200  # Chromium's window is at least 500 wide
LIGHT_PAPER, DARK_PAPER = (255, 255, 255), (24, 25, 27)
LIGHT_TRAIN, DARK_TRAIN = (13, 116, 206), (112, 184, 255)
LIGHT_HELD = (204, 78, 0)


@pytest.fixture
def report(make_run: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    """Write the report of a run that has restarted twice."""
    body = make_run(
        "qwen-7b-support", phase="Succeeded", attempt=3, restarts=2,
        startTime="2026-01-02T03:00:00Z", completionTime="2026-01-02T05:10:00Z",
        plan={
            "summary": "2×8 H100-80GB · shard 8 × replicate 2 · micro-batch 2",
            "reason": "Fastest of 1536 plans that fit (171 did not): 158,000 tokens/s.",
            "predicted": {"memoryGiB": 61.3, "tokensPerSecond": 158_000.0, "mfu": 0.44},
            "alternatives": [
                {"summary": "2×8 H100-80GB · shard 16 · micro-batch 2", "rejected": "2% slower"},
                {"summary": "2×8 H100-80GB · replicate 16", "rejected": "needs 137 GiB of 73"},
            ],
        },
        measured={"memoryGiB": 60.1, "tokensPerSecond": 151_000.0, "mfu": 0.42},
        result={"validationLossBefore": 2.31, "validationLossAfter": 1.42,
                "trainedTokens": 98_000_000, "outputPath": "/data/out/model"},
        failures=[
            {"attempt": 1, "reason": "NodeLost", "message": "gpu-3 is not ready",
             "time": "2026-01-02T03:40:00Z"},
            {"attempt": 2, "reason": "CommunicationFailure", "message": "rank 11 lost rank 3",
             "time": "2026-01-02T03:55:00Z"},
        ],
        workers={"pods": [{"node": "gpu-1"}, {"node": "gpu-2"}]},
    )  # fmt: skip
    body["spec"] = {
        "model": {"name": "Qwen/Qwen1.5-7B"},
        "dataset": {"path": "/data/qwen_dataset.pt"},
        "training": {"epochs": 1, "batchSize": 64, "sequenceLength": 2048, "learningRate": 1e-5},
        "output": {"path": "/data/out"},
    }
    history = [
        Progress(
            attempt=3, step=step, total_steps=400, loss=1.3 + 1.0 / (1 + step / 40),
            validation_loss=1.4 + 0.9 / (1 + (step // 50) / 2), tokens_per_second=151_000.0 - step,
        )
        for step in range(0, 400, 5)
    ]  # fmt: skip
    target = tmp_path / "report.html"
    now = datetime(2026, 1, 2, 5, 11, tzinfo=UTC)
    target.write_text(page.page(body, of_run(body), history, [], now), encoding="utf-8")
    return target


def shot(report: Path, name: str, width: int, *, dark: bool = False) -> Picture:
    return shoot(report, report.parent / f"{name}.png", width=width, height=2100, dark=dark)


@pytest.mark.parametrize(("name", "width"), [("phone", PHONE), ("desk", DESK)])
def test_curves_and_bars_are_drawn_and_nothing_is_cut_off(
    report: Path, name: str, width: int
) -> None:
    picture = shot(report, name, width)
    assert picture.background == LIGHT_PAPER
    assert picture.count(LIGHT_TRAIN) > 3000, "curve, measured bars, the last attempt"
    assert picture.count(LIGHT_HELD) > 500, "validation, and the attempts that failed"
    assert picture.reaches() < width - 5, "no wider than the window"


def test_the_dark_page_is_dark_and_as_full(report: Path) -> None:
    picture = shot(report, "dark", DESK, dark=True)
    assert picture.background == DARK_PAPER
    assert picture.count(DARK_TRAIN) > 3000
    assert picture.count(LIGHT_PAPER, near=2) == 0, "no white box is left"
