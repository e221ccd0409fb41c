"""A rank whose process is stopped cannot tell: its launcher does, and names it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenft_trainer import stopped, watchdog
from qwenft_trainer.errorfile import read_all
from qwenft_trainer.failure import cause_of_exit, first_cause
from qwenft_trainer.forked import Program
from qwenft_trainer.mesh import STEP
from qwenft_trainer.stopped import Lookout, state_of

pytestmark = pytest.mark.torch

LIMIT = 100


class Sleeper:
    """A process that could be a rank, and a lookout over it whose clock goes by hand."""

    def __init__(self, folder: Path, **environ: str) -> None:
        (folder / "3").mkdir()
        self.folder, self.now, self.state = folder, 1000.0, ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.process.stdout.readline()
        given = {
            "RANK": "7", "QWENFT_STALL_SECONDS": str(LIMIT),
            "TORCHELASTIC_ERROR_FILE": str(folder / "3" / "error.json"),
        } | environ  # fmt: skip
        self.lookout = Lookout(
            self.process.pid, given, clock=lambda: self.now, state=lambda _: self.state
        )

    def after(self, seconds: float, state: str) -> int | None:
        """Return how the process has ended after a look in which it is in this state."""
        self.now += seconds
        self.state = state
        self.lookout.look()
        return self.process.wait() if list(self.folder.rglob("error.json")) else None

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Sleeper]:
    made = Sleeper(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(("state", "word"), [("T", "stopped"), ("t", "stopped by a tracer")])
def test_a_process_that_stays_stopped_is_ended_and_named(
    sleeper: Sleeper, state: str, word: str
) -> None:
    assert sleeper.after(0, state) is None
    assert sleeper.after(LIMIT, state) is None
    assert sleeper.after(LIMIT / 20, state) == -signal.SIGKILL
    (cause,) = read_all(sleeper.folder)
    assert (cause.exit_code, cause.reason, cause.rank) == (69, "Hung", 7)
    assert f"no sign of life for 105 s (limit 100 s): the process of rank 7 is {word}" in (
        cause.message
    )
    assert "SIGSTOP" in cause.message


def test_a_process_that_goes_on_in_between_is_left_alone(sleeper: Sleeper) -> None:
    for _ in range(10):
        assert sleeper.after(LIMIT * 0.9, "T") is None
        assert sleeper.after(LIMIT * 0.1, "R") is None


@pytest.mark.parametrize("state", ["R", "S", "D", "Z", ""])
def test_a_process_that_works_sleeps_or_is_gone_is_not_stopped(
    sleeper: Sleeper, state: str
) -> None:
    for _ in range(4):
        assert sleeper.after(LIMIT, state) is None


@pytest.mark.parametrize(
    ("world", "given", "limit"), [("1", "600", 600), ("2", "600", 60), ("2", "27", 27)]
)
def test_a_stopped_rank_is_named_before_its_peers_have_waited_in_vain(
    tmp_path: Path, world: str, given: str, limit: int
) -> None:
    """They wait for two minutes in a collective, and would be taken for the cause."""
    made = Sleeper(tmp_path, WORLD_SIZE=world, QWENFT_STALL_SECONDS=given)
    assert made.after(0, "T") is None
    assert made.after(limit, "T") is None
    assert made.after(limit / 20, "T") == -signal.SIGKILL
    assert limit * 1.1 < STEP.total_seconds() or world == "1"
    made.close()


def test_the_kernel_is_asked_twenty_times_in_the_limit_however_often_the_agent_looks(
    sleeper: Sleeper,
) -> None:
    asked = []
    sleeper.lookout._state = lambda pid: asked.append(pid) or "S"  # type: ignore[func-returns-value]
    for _ in range(1000):
        sleeper.now += LIMIT / 1000
        sleeper.lookout.look()
    assert len(asked) in (19, 20, 21)


def test_without_a_number_and_an_error_file_the_process_is_ended_all_the_same(
    tmp_path: Path,
) -> None:
    made = Sleeper(tmp_path, RANK="", TORCHELASTIC_ERROR_FILE="")
    made.after(0, "T")
    made.after(LIMIT * 2, "T")
    assert made.process.wait() == -signal.SIGKILL
    made.close()


def test_the_kernel_tells_a_stopped_process_from_one_that_sleeps(sleeper: Sleeper) -> None:
    pid = sleeper.process.pid
    deadline = time.monotonic() + 30
    while state_of(pid) == "R" and time.monotonic() < deadline:
        time.sleep(0.01)  # it was told to be ready a moment before it waits
    assert state_of(pid) == "S"
    os.kill(pid, signal.SIGSTOP)
    assert os.waitid(os.P_PID, pid, os.WSTOPPED) is not None
    assert state_of(pid) in stopped.STOPPED
    sleeper.process.kill()
    sleeper.process.wait()
    assert state_of(pid) == ""


def test_a_name_with_a_parenthesis_does_not_hide_the_state(tmp_path: Path) -> None:
    program = tmp_path / "a) T (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "60"])
    assert state_of(process.pid) in ("S", "R", "D")
    process.kill()
    process.wait()


def test_a_program_that_is_stopped_is_ended_by_whoever_asks_for_its_end(tmp_path: Path) -> None:
    environ = dict(os.environ) | {
        "QWENFT_STALL_SECONDS": "0.2", "RANK": "1",
        "TORCHELASTIC_ERROR_FILE": str(tmp_path / "error.json"),
    }  # fmt: skip
    program = Program(("bash", "-c", "kill -STOP $$"), env=environ, start_new_session=True)
    assert watchdog.limit_of(environ) == pytest.approx(0.2)
    deadline = time.monotonic() + 60
    while (code := program.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    program.kill()
    assert code == -signal.SIGKILL
    (cause,) = read_all(tmp_path)
    assert (cause.rank, cause.reason) == (1, "Hung")


def test_a_rank_that_stands_still_is_the_cause_whatever_its_peers_say(tmp_path: Path) -> None:
    made = Sleeper(tmp_path)
    made.after(0, "T")
    made.after(LIMIT * 2, "T")
    (hung,) = read_all(tmp_path)
    made.close()
    peers = [cause_of_exit(code, rank=0).at(1.0) for code in (69, 64, -signal.SIGTERM)]
    assert first_cause([*peers, hung]) is hung
