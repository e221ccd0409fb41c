"""Processes that outlive the command that started them, each known by its recorded id.

A record holds the process id *and* its start time in kernel ticks, so that an id that another
program got since is never signalled. Nothing is ever looked up by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """One recorded process; ``started`` is field 22 of ``/proc/PID/stat``."""

    name: str
    pid: int
    started: int


def _stat(pid: int) -> tuple[str, int, int] | None:
    """Return state, parent and start time of a process, ``None`` where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in brackets and may hold anything, so count from its end.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])


def identify(name: str, pid: int) -> Process:
    """Return the record of a living process; ``ProcessLookupError`` where it is gone."""
    found = _stat(pid)
    if found is None:
        raise ProcessLookupError(pid)
    return Process(name=name, pid=pid, started=found[2])


def alive(process: Process) -> bool:
    """Whether this very process still runs (a zombie does not)."""
    found = _stat(process.pid)
    return found is not None and found[0] not in "ZX" and found[2] == process.started


def children(pid: int) -> tuple[int, ...]:
    """Return the ids of the direct children of a process."""
    ids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return tuple(child for child in ids if (found := _stat(child)) is not None and found[1] == pid)


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a program in a session of its own, its output going to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as sink:
        started = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    # It is left to live on: the garbage collector need not warn of it.
    started.returncode = 0
    return identify(name, started.pid)


def stop(process: Process, *, grace: float = 5.0) -> None:
    """End a process: politely, and after ``grace`` seconds for good. Zero grace kills at once."""
    if not alive(process):
        return
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if grace > 0:
            _signal(process, signal.SIGTERM)
            if _ended(handle, grace):
                return
        _signal(process, signal.SIGKILL)
        _ended(handle, 10.0)
    finally:
        os.close(handle)


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _ended(handle: int, seconds: float) -> bool:
    """Wait for a process to end (a zombie counts as ended)."""
    return bool(select.select([handle], [], [], seconds)[0])


def suspend(process: Process) -> None:
    """Freeze a process where it stands."""
    _signal(process, signal.SIGSTOP)


def resume(process: Process) -> None:
    """Let a frozen process go on."""
    _signal(process, signal.SIGCONT)


def record(folder: Path, process: Process) -> None:
    """Write a process down, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{process.name}.partial"
    partial.write_text(json.dumps(asdict(process)), encoding="utf-8")
    partial.replace(folder / f"{process.name}.json")


def forget(folder: Path, name: str) -> None:
    """Remove a record."""
    (folder / f"{name}.json").unlink(missing_ok=True)


def recorded(folder: Path) -> tuple[Process, ...]:
    """Return every record of a folder, by name."""
    return tuple(Process(**json.loads(file.read_text())) for file in sorted(folder.glob("*.json")))


def find(folder: Path, name: str) -> Process | None:
    """Return the record of that name."""
    return next((process for process in recorded(folder) if process.name == name), None)


def await_child(pid: int, *, seconds: float = 10.0) -> int:
    """Return a process's first child as soon as there is one; ``TimeoutError`` without one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = children(pid)
        if found:
            return found[0]
        time.sleep(0.02)
    raise TimeoutError(f"process {pid} started no child within {seconds:.0f} s")
