"""A launcher that is told to stop while it waits for the other nodes stops at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launching.processes import ROOT

pytestmark = pytest.mark.torch
PATHS = os.pathsep.join(
    str(ROOT / folder) for folder in ("operator/src", "trainer_image/src", "tests/support")
)


@pytest.fixture(scope="module", name="ends")
def run_all_cases() -> dict[str, tuple[int, str]]:
    environ = os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "launching.stops"]
    done = subprocess.run(
        command, env=environ, check=True, capture_output=True, text=True, timeout=300
    )
    return {name: (code, output) for name, (code, output) in json.loads(done.stdout).items()}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_wait_with_the_code_that_was_chosen(
    ends: dict[str, tuple[int, str]], name: str
) -> None:
    assert ends[name] == (64, f"stopped by {name}\n")


def test_a_wait_inside_c_code_is_ended_too(ends: dict[str, tuple[int, str]]) -> None:
    assert ends["blocked"] == (64, "stopped by SIGTERM\n")


def test_once_the_ranks_are_prepared_signals_are_the_agents(
    ends: dict[str, tuple[int, str]],
) -> None:
    assert ends["handed over"] == (0, '["reified", {"0": {"A": "b"}}]\n[15]\n')


def test_without_a_signal_everything_is_as_it_was(ends: dict[str, tuple[int, str]]) -> None:
    assert ends["in peace"] == (0, "True -1\n")


def test_an_error_goes_through_and_the_handlers_are_back(
    ends: dict[str, tuple[int, str]],
) -> None:
    assert ends["raising"] == (0, "KeyError('mine') True\n")


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_launcher_that_still_loads_torch_stops_too() -> None:
    environ = os.environ | {"PYTHONPATH": str(ROOT / "trainer_image/src")}
    command = [sys.executable, "-m", "qwenft_trainer", "--nnodes=2", "--master-addr=127.0.0.1"]
    with subprocess.Popen(command, env=environ) as started:
        while not catches(started.pid, signal.SIGTERM):
            assert started.poll() is None
            time.sleep(0.005)
        loaded = Path(f"/proc/{started.pid}/maps").read_text(encoding="utf-8")
        started.send_signal(signal.SIGTERM)
        assert started.wait(timeout=30) == 64
    assert "libtorch" not in loaded


def test_a_launcher_is_gone_as_soon_as_it_has_said_why(tmp_path: Path) -> None:
    """Tearing torch down takes a second: a restart waits for it, and so it is left out."""
    program = (
        "import atexit, runpy, sys, time; atexit.register(time.sleep, 600);"
        "sys.argv = ['-m']; runpy.run_module('qwenft_trainer', run_name='__main__')"
    )
    environ = os.environ | {"QWENFT_PLAN": str(tmp_path / "gone.json"), "PYTHONPATH": PATHS}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 66
    assert "gone.json" in done.stderr, "all that it said has arrived"
