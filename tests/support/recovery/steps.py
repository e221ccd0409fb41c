"""When steps were trained, by the time stamps that the node puts before the lines of a log."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from embedded.stages import StageError, direct_environment
from endtoend.bench import Bench

__all__ = ["Trained", "follow", "read", "trained"]

Trained = tuple[float, int]
"""Seconds since the epoch, and the number of the step that had been trained by then."""


def trained(text: str) -> list[Trained]:
    """Return the steps that a log with time stamps tells of; a line cut short is left out."""
    found = []
    for line in text.splitlines():
        stamp, _, content = line.partition(" ")
        if not content.startswith("{"):
            continue
        try:
            report = json.loads(content)
        except ValueError:
            continue
        if (report.get("step") or 0) > 0 and report.get("loss") is not None:
            found.append((_seconds(stamp), int(report["step"])))
    return found


def _seconds(stamp: str) -> float:
    """Read ``2026-11-27T08:38:45.251306931Z``."""
    return datetime.fromisoformat(stamp).timestamp()


def read(bench: Bench, pod: str) -> list[Trained]:
    """Return the steps that a pod has trained; none while its container does not run."""
    try:
        return trained(bench.kubectl("logs", "--timestamps", pod))
    except StageError:
        return []


@contextmanager
def follow(bench: Bench, pod: str) -> Iterator[Path]:
    """Write a pod's log into a file as it comes: what a dying node has told is kept."""
    with tempfile.NamedTemporaryFile(suffix=".log") as file:
        command = [
            bench.platform.tool("kubectl"), f"--kubeconfig={bench.platform.kubeconfig}",
            "-n", bench.namespace, "logs", "--follow", "--timestamps", pod,
        ]  # fmt: skip
        following = subprocess.Popen(
            command, stdout=file, stderr=subprocess.DEVNULL, env=direct_environment()
        )
        try:
            yield Path(file.name)
        finally:
            following.terminate()
            following.wait()
