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
PHONE, DESK = 390, 1200
HEIGHT = 2700
LIGHT_PAPER, DARK_PAPER = (255, 255, 255), (24, 25, 27)
LIGHT_TRAIN, DARK_TRAIN = (13, 116, 206), (112, 184, 255)
LIGHT_HELD = (204, 78, 0)
PARTS = {"weights and computation": (62, 99, 221), "activations": (18, 165, 148)}


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
            "parts": {
                "deviceGiB": 79.6,
                "memoryGiB": {"weights": 3.6, "gradients": 3.6, "optimizer": 7.2,
                              "activations": 31.0, "logits": 9.3, "buffers": 3.1,
                              "overhead": 3.5},
                "stepSeconds": {"compute": 0.61, "tensor": 0.0, "shard": 0.12,
                                "replicate": 0.05, "pipeline": 0.0, "bubble": 0.0,
                                "optimizer": 0.02, "overhead": 0.03},
            },
            "alternatives": [
                {"summary": "2×8 H100-80GB · shard 16 · micro-batch 2", "rejected": "2% slower"},
                {"summary": "2×8 H100-80GB · replicate 16", "rejected": "needs 137 GiB of 73"},
            ],
        },
        measured={"memoryGiB": 60.1, "tokensPerSecond": 151_000.0, "mfu": 0.42},
        result={"validationLossBefore": 2.31, "validationLossAfter": 1.42,
                "trainedTokens": 98_000_000, "outputPath": "/data/out/model",
                "environment": "Python 3.13.5 · torch 2.15.0 · transformers 5.23.0 · CUDA 13.0 · "
                               "NVIDIA H100 80GB HBM3"},
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
    """Draw the page in a frame: Chromium's window is at least 500 wide, a phone is not."""
    frame = report.with_name(f"{name}.html")
    style = f"border:0;width:{width}px;height:{HEIGHT}px"
    body = f'<body style="margin:0"><iframe src="{report.name}" style="{style}"></iframe>'
    frame.write_text(f"<!doctype html>{body}", encoding="utf-8")
    target = report.parent / f"{name}.png"
    return shoot(frame, target, width=max(width, 500), height=HEIGHT, dark=dark).left(width)


@pytest.mark.parametrize(("name", "width"), [("phone", PHONE), ("desk", DESK)])
def test_curves_and_bars_are_drawn_and_nothing_is_cut_off(
    report: Path, name: str, width: int
) -> None:
    picture = shot(report, name, width)
    assert picture.background == LIGHT_PAPER
    assert picture.count(LIGHT_TRAIN) > 3000, "curve, measured bars, the last attempt"
    assert picture.count(LIGHT_HELD) > 500, "validation, and the attempts that failed"
    for part, least in (("weights and computation", 2000), ("activations", 2000)):
        assert picture.count(PARTS[part]) > least, part
    assert picture.reaches() <= width - 12, "no wider than the window"


def test_the_dark_page_is_dark_and_as_full(report: Path) -> None:
    picture = shot(report, "dark", DESK, dark=True)
    assert picture.background == DARK_PAPER
    assert picture.count(DARK_TRAIN) > 3000
    assert picture.count(LIGHT_PAPER, near=2) == 0, "no white box is left"


def test_a_memory_bar_has_its_parts_as_wide_as_their_shares(report: Path) -> None:
    picture = shot(report, "shares", DESK)
    widths = {
        name: max(sum(near(pixel, colour) for pixel in row) for row in picture.rows)
        for name, colour in PARTS.items()
    }
    # The widest blue piece is the computation's, 0.61 of 0.868 s; activations are 31 of 79.6 GiB.
    whole = 832  # 52 rem
    assert widths["weights and computation"] == pytest.approx(0.61 / 0.868 * whole, rel=0.02)
    assert widths["activations"] == pytest.approx(31.0 / 79.6 * whole, rel=0.02)


def near(pixel: tuple[int, int, int], colour: tuple[int, int, int]) -> bool:
    return all(abs(a - b) <= 12 for a, b in zip(pixel, colour, strict=True))
