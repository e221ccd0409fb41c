"""What a test started ends with it, also when the test is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bare.guard import Guard
from embedded import processes
from embedded.stages import wait_until

MAKER = """
import sys, time
from pathlib import Path
from bare.guard import Guard
from embedded import processes

folder = Path(sys.argv[1])
guard = Guard()
guard.over_folder(folder / "data")
made = processes.start("sleeper", ["sleep", "300"], log=folder / "log")
guard.over(made)
processes.record(folder / "made", made)
time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_test_leaves_neither_process_nor_folder(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "data").mkdir()
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        wait_until(lambda: processes.recorded(tmp_path / "made"), seconds=30, what="a sleeper")
        (sleeper,) = processes.recorded(tmp_path / "made")
        assert processes.alive(sleeper)
        maker.send_signal(number)
        wait_until(lambda: not processes.alive(sleeper), seconds=30, what="its end")
        wait_until(lambda: not (tmp_path / "data").exists(), seconds=30, what="the folder's end")
    finally:
        maker.kill()
        maker.wait()


def test_an_orderly_end_needs_nothing_of_it(tmp_path: Path) -> None:
    with Guard() as guard:
        made = processes.start("sleeper", ["sleep", "300"], log=tmp_path / "log")
        guard.over(made)
        processes.stop(made)
    assert not processes.alive(made)
