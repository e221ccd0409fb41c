"""Ends what a killed test leaves behind.

A test that is ended by SIGTERM or SIGKILL runs none of its own cleaning up. The guard is a process
beside it that notices by the end of a pipe, whatever ended the test, and knows what was started.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Self

from embedded import processes

__all__ = ["Guard"]

ROOT = Path(__file__).resolve().parents[3]
_PLACES = ("tests/cluster", "tests/support")


class Guard:
    """Outlives its maker by as long as it takes to end what was given to it."""

    def __init__(self) -> None:
        path = ":".join(str(ROOT / place) for place in _PLACES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bare.guard"], stdin=subprocess.PIPE, text=True, cwd="/",
            env={"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def over(self, process: processes.Process) -> None:
        """End this process too."""
        self._tell({"process": asdict(process)})

    def over_folder(self, folder: Path) -> None:
        """Remove this folder too, when all processes have ended."""
        self._tell({"folder": str(folder)})

    def _tell(self, what: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()


def main() -> None:
    """Read what there is until the maker is gone, then end it, the last first."""
    told = [json.loads(line) for line in sys.stdin if line.endswith("\n")]
    for each in reversed(told):
        if "process" in each:
            processes.stop(processes.Process(**each["process"]), grace=0.0)
    for each in told:
        if "folder" in each:
            shutil.rmtree(each["folder"], ignore_errors=True)


if __name__ == "__main__":
    main()
