from __future__ import annotations

import dataclasses
import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from qwenft_cli import view
from qwenft_cli.snapshot import Failure, Snapshot, Worker
from qwenft_plan.progress import Progress

NOW = datetime(2026, 1, 2, 3, 5, 5, tzinfo=UTC)
TRAINING = Snapshot(
    name="qwen-stdlib",
    phase="Training",
    plan="2×1 CPU · shard 2 · micro-batch 16",
    reason="Fastest of 30 plans that fit (0 did not): 887 tokens/s, 0.4 of 8.0 GiB per device.",
    predicted={"memoryGiB": 0.4, "tokensPerSecond": 887.0},
    measured={"memoryGiB": 0.5, "tokensPerSecond": 1234.0},
    progress=Progress(
        attempt=1, step=30, total_steps=60, loss=4.25, validation_loss=4.5, learning_rate=1e-3,
        estimated_remaining_seconds=95.0, checkpoint_step=20,
    ),
    workers_ready="2/2",
    workers=(
        Worker(name="qwen-stdlib-1-0-abcde", node="node-0", state="Running"),
        Worker(name="qwen-stdlib-1-1-fghij", node="node-1", state="Running"),
    ),
    event="Training: the first step is done",
    started="2026-01-02T03:04:05Z",
)  # fmt: skip


def drawn(snapshot: Snapshot, losses: tuple[float, ...] = (), width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(view.draw(snapshot, losses, NOW))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(label))


def test_the_title_says_who_what_and_how_long() -> None:
    assert drawn(TRAINING).splitlines()[0].split() == ["qwen-stdlib", "Training", "1m", "00s"]


def test_the_step_has_a_bar_a_share_and_an_end_in_sight() -> None:
    step = row(drawn(TRAINING), "step")
    assert "━" * 15 + "─" * 15 in step
    assert "30/60  50 %  ETA 1m 35s  saved 20" in step


def test_a_run_that_does_not_train_has_no_end_in_sight() -> None:
    assert "ETA" not in drawn(replace(TRAINING, phase="Suspended"))


def test_a_loss_without_a_curve_stands_where_the_curve_would() -> None:
    assert row(drawn(TRAINING), "loss").startswith("loss     4.250  ")


def test_the_loss_has_a_curve_and_its_last_value() -> None:
    loss = row(drawn(TRAINING, (8.0, 6.0, 4.0)), "loss")
    assert "█▅▁ 4.250" in loss
    assert "validation 4.500" in loss


def test_measured_stands_before_predicted() -> None:
    speed = row(drawn(TRAINING), "speed")
    assert "measured 1,234 tokens/s, 0.5 GiB · predicted 887 tokens/s, 0.4 GiB" in speed


def test_workers_are_listed_with_their_nodes() -> None:
    text = drawn(TRAINING)
    assert "2/2" in row(text, "workers")
    assert "qwen-stdlib-1-1-fghij on node-1: Running" in text


def test_many_workers_are_counted_not_listed() -> None:
    many = tuple(Worker(name=f"w-{i}", node="n", state="Running") for i in range(20))
    text = drawn(Snapshot(name="a", phase="Training", workers_ready="20/20", workers=many))
    assert "w-7" in text
    assert "w-8" not in text
    assert "… and 12 more" in text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = drawn(TRAINING, tuple(float(i) for i in range(100)), width)
    assert max(len(line) for line in text.splitlines()) <= width


def test_what_is_not_known_takes_no_line() -> None:
    text = drawn(Snapshot(name="a", phase="Pending"))
    assert text.split() == ["a", "Pending"]


def test_without_a_plan_its_reason_stands_there() -> None:
    text = drawn(Snapshot(name="a", phase="Pending", reason="needs 91 GiB of 73"))
    assert "needs 91 GiB of 73" in row(text, "plan")


def test_a_later_attempt_is_in_the_title() -> None:
    text = drawn(Snapshot(name="a", phase="Training", attempt=3, restarts=2))
    assert "attempt 3, restarts 2" in text


def test_a_failure_says_what_where_and_with_which_code() -> None:
    failure = Failure(
        attempt=1, reason="DatasetInvalid", message="/data/x.pt: cannot be read", exit_code=65,
        rank=1, node="node-1",
    )  # fmt: skip
    text = drawn(Snapshot(name="a", phase="Failed", failure=failure), width=200)
    assert "DatasetInvalid: /data/x.pt: cannot be read" in text
    assert "(attempt 1, rank 1, on node-1, exit code 65)" in text


def test_a_finished_run_shows_its_result_and_no_eta() -> None:
    done = Snapshot(
        name="a",
        phase="Succeeded",
        progress=Progress(
            attempt=1, step=60, total_steps=60, loss=4.0, estimated_remaining_seconds=3.0
        ),
        result={
            "validationLossBefore": 8.3, "validationLossAfter": 4.5, "trainedTokens": 123456,
            "outputPath": "/data/out/model",
        },
        started="2026-01-02T03:04:05Z",
        completed="2026-01-02T03:04:25Z",
    )  # fmt: skip
    text = drawn(done, width=120)
    assert "validation loss 8.300 → 4.500, 123,456 tokens trained, in /data/out/model" in text
    assert "20s" in text.splitlines()[0]
    assert "ETA" not in text


def test_text_from_the_cluster_is_never_markup() -> None:
    text = drawn(Snapshot(name="a", phase="Failed", event="Bad: [red]x[/red] [/]"))
    assert "[red]x[/red] [/]" in text


@pytest.mark.parametrize(
    ("done", "total", "filled"), [(0, 10, 0), (5, 10, 2), (10, 10, 4), (11, 10, 4), (3, 0, 0)]
)
def test_a_bar_is_filled_in_proportion(done: int, total: int, filled: int) -> None:
    assert view.bar(done, total, 4) == "━" * filled + "─" * (4 - filled)


def test_a_pipe_gets_one_line() -> None:
    assert view.line(TRAINING) == (
        "qwen-stdlib  Training  step 30/60  loss 4.250  validation 4.500  workers 2/2"
    )


def test_the_line_of_a_finished_run_says_what_it_gave_and_where() -> None:
    result = {"validationLossBefore": 8.3738, "validationLossAfter": 5.6242, "outputPath": "/d/o"}
    finished = dataclasses.replace(TRAINING, phase="Succeeded", result=result)
    assert view.line(finished) == (
        "qwen-stdlib  Succeeded  step 30/60  validation loss 8.374 → 5.624, in /d/o"
    )


def test_the_first_line_of_a_run_says_the_plan_and_why() -> None:
    assert view.line(dataclasses.replace(TRAINING, progress=None)).split("  ")[2:] == [
        "workers 2/2", TRAINING.plan, TRAINING.reason,
    ]  # fmt: skip


def test_the_line_of_a_failed_run_ends_with_the_cause() -> None:
    failure = Failure(attempt=1, reason="DatasetInvalid", message="no file")
    snapshot = Snapshot(name="a", phase="Failed", failure=failure, reason="the plan's")
    assert view.line(snapshot) == "a  Failed  DatasetInvalid: no file"


def test_the_line_of_a_waiting_run_says_what_it_waits_for() -> None:
    assert view.line(Snapshot(name="a", phase="Pending", reason="no nodes")) == (
        "a  Pending  no nodes"
    )
