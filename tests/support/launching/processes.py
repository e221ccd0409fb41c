"""Real ``python -m qwenft_trainer`` processes, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 300.0
_OWN = ("PET_", "QWENFT_", "KUBEFLOW_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")


@dataclass(kw_only=True)
class Launcher:
    """A launcher that runs; ``log`` is where the kubelet would look for its last words."""

    process: subprocess.Popen[str]
    log: Path
    errors: Path

    def read_until(self, found: Callable[[str], bool]) -> str:
        """Return the first line of its standard output for which ``found`` holds."""
        stream: IO[str] | None = self.process.stdout
        assert stream is not None
        for line in stream:
            if found(line):
                return line
        raise AssertionError(f"the launcher ended before: {self.errors.read_text()[-3000:]}")

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for its end; return the exit code and the termination message."""
        self.process.communicate(timeout=SECONDS)
        assert self.log.is_file(), self.errors.read_text()[-3000:]
        message = json.loads(self.log.read_text(encoding="utf-8"))
        assert isinstance(message, dict)
        return self.process.returncode, message


@contextmanager
def launcher(
    folder: Path, *arguments: str, environ: Mapping[str, str] | None = None
) -> Iterator[Launcher]:
    """Start a launcher in a process group of its own, which ends with the context."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    log, errors = folder / "termination-log", folder / "stderr.txt"
    sources = (str(ROOT / "operator/src"), str(ROOT / "trainer_image/src"))
    variables = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sources),
        "QWENFT_TERMINATION_LOG": str(log),
        **(environ or {}),
    }
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "qwenft_trainer", *arguments],
            env=kept | variables,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield Launcher(process=process, log=log, errors=errors)
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
