"""Following a run until it ends: redrawn in place on a terminal, one line a change in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from rich.console import Console
from rich.live import Live

from qwenft_cli import lines, view
from qwenft_cli.access import Access, Object
from qwenft_cli.failure import FAILED, OK, CliError
from qwenft_cli.printing import show_json
from qwenft_cli.snapshot import Snapshot, of_run
from qwenft_operator import names
from qwenft_plan.progress import Progress

__all__ = ["Screen", "exit_code", "follow", "history", "look", "until_finished"]

_PERIOD_SECONDS = 1.0


class Screen:
    """Where snapshots appear. A context manager: on a terminal the last view stays behind."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.losses: list[float] = []
        self._newest = (0, -1)
        self._last = ""
        self._live = Live(console=self.console, auto_refresh=False)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Redraw, or print one line when it says something new."""
        if snapshot.progress is not None:
            self.remember(snapshot.progress)
        if self.console.is_terminal:
            self._live.update(view.draw(snapshot, self.losses, datetime.now(UTC)), refresh=True)
            return
        text = view.line(snapshot)
        if text != self._last:
            print(text, flush=True)
            self._last = text

    def remember(self, report: Progress) -> None:
        """Add a report to the curve, unless it is no newer than the last."""
        if report.loss is not None and (report.attempt, report.step) > self._newest:
            self._newest = (report.attempt, report.step)
            self.losses.append(report.loss)


def look(access: Access, name: str) -> Snapshot:
    """Return the run as it is now, with its pods and its last event."""
    body = access.run(name)
    attempt = str((body.get("status") or {}).get("attempt") or "")
    pods = [pod for pod in access.pods(name) if _of_attempt(pod, attempt)]
    return of_run(body, pods=pods, events=access.events(body))


def follow(
    access: Access, name: str, *, output: str, sleep: Callable[[float], None] = time.sleep
) -> int:
    """Watch the run to its end and return its exit code.

    As json there is one thing to see, the object as it is in the end.
    """
    if output != "json":
        return exit_code(until_finished(access, name, sleep=sleep))
    while not of_run(body := access.run(name)).finished:
        sleep(_PERIOD_SECONDS)
    show_json(body)
    return exit_code(of_run(body))


def until_finished(
    access: Access,
    name: str,
    screen: Screen | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Snapshot:
    """Show the run until it has succeeded or failed, and return its last snapshot.

    Raises :class:`CliError` when the run is deleted meanwhile.
    """
    with screen or Screen() as shown:
        snapshot = look(access, name)
        for report in history(access, snapshot):
            shown.remember(report)
        shown.show(snapshot)
        while not snapshot.finished:
            sleep(_PERIOD_SECONDS)
            snapshot = look(access, name)
            shown.show(snapshot)
    return snapshot


def exit_code(snapshot: Snapshot) -> int:
    """Return 0 for a run that succeeded, 1 for one that failed."""
    return OK if snapshot.phase == "Succeeded" else FAILED


def history(access: Access, snapshot: Snapshot) -> tuple[Progress, ...]:
    """Return the reports in the first pod's log: a late watcher sees the whole attempt."""
    if snapshot.progress is None or not snapshot.workers:
        return ()
    try:
        return lines.reports(access.log(snapshot.workers[0].name))
    except CliError:
        return ()  # the pod is gone or starting: the curve begins now


def _of_attempt(pod: Object, attempt: str) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return not attempt or labels.get(names.LABEL_ATTEMPT) == attempt
