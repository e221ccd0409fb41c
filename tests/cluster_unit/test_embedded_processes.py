from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from embedded import processes
from embedded.processes import Process


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    process = processes.start("sleeper", ["sleep", "60"], log=tmp_path / "sleeper.log")
    yield process
    processes.stop(process, grace=0)


def test_a_started_process_lives_in_a_session_of_its_own(sleeper: Process) -> None:
    assert processes.alive(sleeper)
    assert os.getsid(sleeper.pid) == sleeper.pid


def test_a_stopped_process_is_not_alive_even_before_it_is_buried(sleeper: Process) -> None:
    processes.stop(sleeper)
    assert Path(f"/proc/{sleeper.pid}").exists()
    assert not processes.alive(sleeper)


def test_an_id_that_another_process_got_is_left_alone(sleeper: Process) -> None:
    earlier = replace(sleeper, started=sleeper.started - 1)
    assert not processes.alive(earlier)
    processes.stop(earlier, grace=0)
    assert processes.alive(sleeper)


def test_who_does_not_listen_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; echo deaf; while :; do sleep 60; done"
    log = tmp_path / "deaf.log"
    process = processes.start("deaf", ["sh", "-c", script], log=log)
    while "deaf" not in log.read_text():
        time.sleep(0.01)
    inner = processes.identify("inner", processes.await_child(process.pid))
    processes.stop(process, grace=0.1)
    assert not processes.alive(process)
    processes.stop(inner, grace=0)


def test_stopping_twice_is_stopping_once(sleeper: Process) -> None:
    processes.stop(sleeper)
    processes.stop(sleeper)
    assert not processes.alive(sleeper)


def test_a_record_is_found_again_and_forgotten(tmp_path: Path, sleeper: Process) -> None:
    folder = tmp_path / "records"
    processes.record(folder, sleeper)
    assert processes.find(folder, "sleeper") == sleeper
    assert processes.recorded(folder) == (sleeper,)
    processes.forget(folder, "sleeper")
    assert processes.find(folder, "sleeper") is None


def test_a_record_replaces_the_one_before(tmp_path: Path, sleeper: Process) -> None:
    processes.record(tmp_path, replace(sleeper, pid=1))
    processes.record(tmp_path, sleeper)
    assert processes.recorded(tmp_path) == (sleeper,)


def test_no_folder_holds_no_records(tmp_path: Path) -> None:
    assert processes.recorded(tmp_path / "none") == ()


def test_who_is_gone_cannot_be_identified() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(ProcessLookupError):
        processes.identify("ended", ended.pid)


def test_a_child_is_found(tmp_path: Path) -> None:
    parent = processes.start("parent", ["sh", "-c", "sleep 60; :"], log=tmp_path / "log")
    child = processes.identify("child", processes.await_child(parent.pid))
    assert processes.children(parent.pid) == (child.pid,)
    for process in (parent, child):
        processes.stop(process, grace=0)


def test_the_wait_for_a_child_ends(sleeper: Process) -> None:
    with pytest.raises(TimeoutError, match=str(sleeper.pid)):
        processes.await_child(sleeper.pid, seconds=0.05)


def test_a_suspended_process_is_alive_and_goes_on_when_told(sleeper: Process) -> None:
    processes.suspend(sleeper)
    _, status = os.waitpid(sleeper.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert processes.alive(sleeper)
    processes.resume(sleeper)
    _, status = os.waitpid(sleeper.pid, os.WCONTINUED)
    assert os.WIFCONTINUED(status)


def test_what_a_process_says_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "speaker.log"
    process = processes.start("speaker", ["sh", "-c", "echo out; echo err >&2"], log=log)
    os.waitpid(process.pid, 0)
    assert log.read_text().split() == ["out", "err"]


def test_the_signal_of_an_impolite_stop_is_kill(sleeper: Process) -> None:
    processes.stop(sleeper, grace=0)
    _, status = os.waitpid(sleeper.pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
