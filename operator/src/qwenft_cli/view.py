"""Drawing a snapshot: the live view of ``status --watch`` and ``run``, and one line for a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qwenft_cli import wording
from qwenft_cli.snapshot import Snapshot
from qwenft_cli.sparkline import sparkline
from qwenft_plan.progress import Progress

__all__ = ["bar", "draw", "line"]

_BAR = 30
_CURVE = 24
_PODS = 8
_STYLES = {
    "Pending": "yellow",
    "Queued": "yellow",
    "Starting": "cyan",
    "Training": "cyan",
    "Restarting": "magenta",
    "Suspended": "yellow",
    "Succeeded": "green",
    "Failed": "red",
}


def draw(snapshot: Snapshot, losses: Sequence[float], now: datetime) -> RenderableType:
    """Return the view of a run; ``losses`` is the curve so far, oldest first."""
    rows = [
        ("plan", _plan(snapshot)),
        ("speed", _speed(snapshot)),
        ("step", _step(snapshot)),
        ("loss", _loss(snapshot, losses)),
        ("workers", _workers(snapshot)),
        ("event", Text(snapshot.event)),
        ("failure", _failure(snapshot)),
        ("result", _result(snapshot)),
    ]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        if text.plain:
            table.add_row(label, text)
    return Group(_title(snapshot, now), table)


def bar(done: int, total: int, width: int = _BAR) -> str:
    """Return a bar of ``width`` columns, filled in proportion."""
    filled = 0 if total <= 0 else min(width, done * width // total)
    return "━" * filled + "─" * (width - filled)


def line(snapshot: Snapshot) -> str:
    """Return the run in one line, for a pipe or a log."""
    parts = [snapshot.name, snapshot.phase]
    progress = snapshot.progress
    if progress is not None:
        parts.append(f"step {progress.step}/{progress.total_steps}")
        parts += [] if snapshot.result else _losses(progress)
    if snapshot.result:
        parts.append(_result(snapshot).plain)
    elif snapshot.workers_ready:
        parts.append(f"workers {snapshot.workers_ready}")
    if snapshot.failure is not None and snapshot.phase == "Failed":
        parts.append(f"{snapshot.failure.reason}: {snapshot.failure.message}")
    elif snapshot.progress is None and snapshot.reason:
        parts += [snapshot.plan, snapshot.reason]
    return "  ".join(part for part in parts if part)


def _losses(progress: Progress) -> list[str]:
    named = (("loss", progress.loss), ("validation", progress.validation_loss))
    return [f"{label} {wording.number(value)}" for label, value in named if value is not None]


def _title(snapshot: Snapshot, now: datetime) -> Text:
    title = Text(snapshot.name, style="bold")
    title.append("  ")
    title.append(snapshot.phase, style=_STYLES.get(snapshot.phase, ""))
    if snapshot.restarts or snapshot.attempt > 1:
        title.append(f"  attempt {snapshot.attempt}, restarts {snapshot.restarts}", style="dim")
    started = wording.moment(snapshot.started)
    if started is not None:
        ended = wording.moment(snapshot.completed) or now
        title.append(f"  {wording.duration((ended - started).total_seconds())}", style="dim")
    return title


def _plan(snapshot: Snapshot) -> Text:
    text = Text(snapshot.plan)
    if snapshot.reason:
        text.append(f"\n{snapshot.reason}" if snapshot.plan else snapshot.reason, style="dim")
    return text


def _speed(snapshot: Snapshot) -> Text:
    """Predicted beside measured: tokens a second, memory, MFU."""
    parts = []
    for label, numbers in (("measured", snapshot.measured), ("predicted", snapshot.predicted)):
        shown = []
        if numbers.get("tokensPerSecond"):
            shown.append(f"{wording.count(numbers['tokensPerSecond'])} tokens/s")
        if numbers.get("memoryGiB"):
            shown.append(f"{numbers['memoryGiB']:.1f} GiB")
        if shown:
            parts.append(f"{label} {', '.join(shown)}")
    return Text(" · ".join(parts))


def _step(snapshot: Snapshot) -> Text:
    progress = snapshot.progress
    if progress is None:
        return Text()
    text = Text(bar(progress.step, progress.total_steps), style="cyan")
    share = 100 * progress.step // progress.total_steps if progress.total_steps else 0
    text.append(f" {progress.step}/{progress.total_steps}  {share} %", style="default")
    remaining = progress.estimated_remaining_seconds
    if remaining and snapshot.phase == "Training":
        text.append(f"  ETA {wording.duration(remaining)}", style="dim")
    if progress.checkpoint_step:
        text.append(f"  saved {progress.checkpoint_step}", style="dim")
    return text


def _loss(snapshot: Snapshot, losses: Sequence[float]) -> Text:
    progress = snapshot.progress
    if progress is None or progress.loss is None:
        return Text()
    curve = sparkline(losses, _CURVE)
    text = Text(f"{curve} " if curve else "", style="green")
    text.append(wording.number(progress.loss), style="default")
    for label, value in (("validation", progress.validation_loss), ("lr", progress.learning_rate)):
        if value is not None:
            text.append(f"  {label} {wording.number(value)}", style="dim")
    return text


def _workers(snapshot: Snapshot) -> Text:
    text = Text(snapshot.workers_ready)
    for worker in snapshot.workers[:_PODS]:
        text.append(f"\n{worker.name} on {worker.node}: {worker.state}", style="dim")
    hidden = len(snapshot.workers) - _PODS
    if hidden > 0:
        text.append(f"\n… and {hidden} more", style="dim")
    return text


def _failure(snapshot: Snapshot) -> Text:
    failure = snapshot.failure
    if failure is None:
        return Text()
    where = [f"attempt {failure.attempt}"]
    if failure.rank is not None:
        where.append(f"rank {failure.rank}")
    if failure.node:
        where.append(f"on {failure.node}")
    if failure.exit_code is not None:
        where.append(f"exit code {failure.exit_code}")
    return Text(f"{failure.reason}: {failure.message} ({', '.join(where)})", style="red")


def _result(snapshot: Snapshot) -> Text:
    result = snapshot.result
    before, after = result.get("validationLossBefore"), result.get("validationLossAfter")
    parts = []
    if before is not None and after is not None:
        parts.append(f"validation loss {wording.number(before)} → {wording.number(after)}")
    if result.get("trainedTokens"):
        parts.append(f"{wording.count(result['trainedTokens'])} tokens trained")
    if result.get("outputPath"):
        parts.append(f"in {result['outputPath']}")
    return Text(", ".join(parts), style="green")
