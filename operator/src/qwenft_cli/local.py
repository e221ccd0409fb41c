"""The same run on this machine: the files and the environment that a pod would find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwenft_cli import lines
from qwenft_cli.document import Document
from qwenft_cli.failure import BAD_INPUT, CliError
from qwenft_cli.snapshot import Failure, Snapshot, with_report
from qwenft_plan.plan import Plan

__all__ = [
    "Mount",
    "Outcome",
    "command",
    "environment",
    "follow",
    "mounts",
    "need_directories",
    "run_file",
    "word_here",
]

_GRACE_SECONDS = 60
_SECTIONS = ("model", "dataset", "training", "checkpoint", "output")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A directory of this machine that stands for a volume's mount point."""

    point: str
    directory: Path

    def here(self, path: str) -> str:
        """Return ``path`` on this machine; paths outside the mount point stay as they are."""
        if path == self.point or path.startswith(self.point + "/"):
            return str(self.directory) + path[len(self.point) :]
        return path


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the trainer ended: its exit code and the last view of the run."""

    exit_code: int
    snapshot: Snapshot


def mounts(texts: Sequence[str]) -> tuple[Mount, ...]:
    """Read ``--mount /data=DIR`` arguments; raises :class:`CliError` for other forms."""
    found = []
    for text in texts:
        point, equals, directory = text.partition("=")
        if not (point.startswith("/") and equals and directory):
            raise CliError(
                f"--mount {text}: expected MOUNTPOINT=DIRECTORY",
                next_step="For instance --mount /data=./data",
                exit_code=BAD_INPUT,
            )
        where = Path(directory).expanduser().resolve()
        found.append(Mount(point=point.rstrip("/"), directory=where))
    return tuple(found)


def need_directories(document: Document, places: Sequence[Mount]) -> None:
    """Raise :class:`CliError` where something is to be read from a directory that is not there.

    One that is only written to is made by the trainer.
    """
    for section in ("model", "dataset"):
        path = document.body["spec"].get(section, {}).get("path", "")
        place = next((each for each in places if each.here(path) != path), None)
        if place is not None and not place.directory.is_dir():
            raise CliError(
                f"--mount {place.point}={place.directory}: there is no such directory, and "
                f"spec.{section}.path, {path}, lies in it",
                next_step="Give the directory that holds what the volume holds on a cluster.",
                exit_code=BAD_INPUT,
            )


def run_file(document: Document, places: Sequence[Mount]) -> dict[str, Any]:
    """Return ``run.json`` as the operator would write it, with this machine's paths."""
    spec = document.body["spec"]
    sections = {name: dict(spec[name]) for name in _SECTIONS if name in spec}
    for section in sections.values():
        section.pop("volume", None)
        if isinstance(section.get("path"), str):
            section["path"] = here(section["path"], places)
    return {
        "name": document.name,
        "namespace": "local",
        "uid": str(uuid.uuid4()),
        "spec": sections,
    }


def here(path: str, places: Sequence[Mount]) -> str:
    """Return ``path`` on this machine, as the first mount that knows it says."""
    return next((new for place in places if (new := place.here(path)) != path), path)


def word_here(word: str, places: Sequence[Mount]) -> str:
    """Return a script's argument with its path on this machine, ``--model=/data/model`` too."""
    flag, equals, value = word.partition("=")
    if equals and flag.startswith("-"):
        return f"{flag}={here(value, places)}"
    return here(word, places)


def environment(
    plan: Plan, run: Mapping[str, Any], folder: Path, base: Mapping[str, str]
) -> dict[str, str]:
    """Write the two files into ``folder`` and return the trainer's environment."""
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(run, indent=2), encoding="utf-8")
    threads = max(1, len(os.sched_getaffinity(0)) // plan.world_size)
    return {
        "OMP_NUM_THREADS": str(threads),
        **base,
        "PYTHONUNBUFFERED": "1",
        "QWENFT_PLAN": str(folder / "plan.json"),
        "QWENFT_RUN": str(folder / "run.json"),
        "QWENFT_NAME": str(run["name"]),
        "QWENFT_NAMESPACE": str(run["namespace"]),
        "QWENFT_UID": str(run["uid"]),
        "QWENFT_ATTEMPT": "1",
        "QWENFT_TERMINATION_LOG": str(folder / "termination.json"),
        "QWENFT_SCRATCH": str(folder / "scratch"),
    }


def command(plan: Plan, script: Sequence[str]) -> list[str]:
    """Return the trainer's command line: every rank of the plan on this one machine."""
    flags = ["--standalone", "--nnodes=1", f"--nproc-per-node={plan.world_size}"]
    return [sys.executable, "-m", "qwenft_trainer", *flags, *script]


def follow(
    words: Sequence[str],
    environ: Mapping[str, str],
    snapshot: Snapshot,
    show: Callable[[Snapshot], None],
    echo: Callable[[str], None],
) -> Outcome:
    """Start the trainer and show its reports until it ends; other lines go to ``echo``.

    Ctrl-C reaches the trainer too; it is waited for while it saves and ends.
    """
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        words,
        env=dict(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in _lines(process):
                report = lines.report(line)
                if report is not None:
                    snapshot = with_report(snapshot, report)
                    show(snapshot)
                elif lines.ending(line) is None:
                    echo(line)
        except KeyboardInterrupt:
            _wind_down(process)
            raise
        code = process.wait()
    last = _ended(snapshot, code, Path(environ["QWENFT_TERMINATION_LOG"]))
    show(last)
    return Outcome(exit_code=code, snapshot=last)


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None  # noqa: S101 - its callers ask for a pipe
    for raw in process.stdout:
        yield raw.rstrip("\n")


def _wind_down(process: subprocess.Popen[str]) -> None:
    """Let the trainer end by itself, and end it when it does not."""
    try:
        process.communicate(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()


def _ended(snapshot: Snapshot, code: int, message: Path) -> Snapshot:
    """Return the last view, with what the trainer left as its termination message."""
    said: Mapping[str, Any] = {}
    if message.is_file():
        said = lines.ending(message.read_text(encoding="utf-8")) or {}
    if code == 0:
        return replace(snapshot, phase="Succeeded", result=said.get("result") or {})
    failure = Failure(
        attempt=1,
        reason=str(said.get("reason") or "WorkerError"),
        message=str(said.get("message") or "the trainer left no message"),
        exit_code=code,
        rank=said.get("rank"),
    )
    return replace(snapshot, phase="Failed", failure=failure)
