"""Ranks of the built-in loop are forks of the launcher that behave as programs of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from launching.plans import MODEL_CONFIG, environ, make_plan, spec
from launching.processes import Launcher, launcher
from qwenft_trainer import forked

pytestmark = pytest.mark.torch

LONG = {"epochs": 100_000, "maxSteps": 100_000}
LOOP = (sys.executable, "-u", "-m", forked.MODULE)


def write_inputs(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(MODEL_CONFIG))
    rows = [{"input_ids": [(7 * n + k) % 128 for k in range(4 + n % 9)]} for n in range(32)]
    torch.save({"train": rows}, folder / "set.pt")


def two_ranks(folder: Path, **training: Any) -> dict[str, str]:
    write_inputs(folder)
    return environ(folder, make_plan(processes_per_node=2), spec(folder, training=training))


def ranks_of(started: Launcher) -> dict[str, int]:
    """Return the launcher's children by name."""
    pid = started.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {Path(f"/proc/{child}/comm").read_text().strip(): int(child) for child in children}


def listening(pid: int) -> set[str]:
    """Return the inodes of the sockets that a process listens on."""
    table = [line.split() for file in ("tcp", "tcp6")
             for line in Path(f"/proc/{pid}/net/{file}").read_text().splitlines()[1:]]  # fmt: skip
    inodes = {f"socket:[{row[9]}]" for row in table if row[3] == "0A"}
    held = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return inodes & held


def test_a_killed_rank_is_named_and_its_peer_is_ended(tmp_path: Path) -> None:
    with launcher(tmp_path, "--nproc-per-node=2", environ=two_ranks(tmp_path, **LONG)) as started:
        started.read_until(lambda line: '"step": 2,' in line)
        ranks = ranks_of(started)
        assert sorted(ranks) == ["qwenft-rank-0", "qwenft-rank-1"]
        assert [os.getsid(pid) for pid in ranks.values()] == list(ranks.values())
        # The launcher's store is rank 0's to talk to, not to hold: peers would take it for alive.
        assert listening(started.process.pid)
        held = listening(started.process.pid)
        assert [held & listening(pid) for pid in ranks.values()] == [set(), set()]
        os.kill(ranks["qwenft-rank-1"], signal.SIGKILL)
        code, message = started.end()
    assert (code, message["rank"]) == (70, 1)
    assert message["message"] == "rank 1 killed by SIGKILL"
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())


def test_a_result_outlives_the_ranks_and_the_launchers_folder_does_not(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    variables = two_ranks(tmp_path, maxSteps=2) | {"TMPDIR": str(scratch)}
    with launcher(tmp_path, "--nproc-per-node=2", environ=variables) as started:
        code, message = started.end()
    assert (code, message["result"]["steps"]) == (0, 2)
    assert [path.name for path in scratch.glob("qwenft-*") if path.name != "qwenft-u-1"] == []


@pytest.fixture(name="child")
def collect_forks() -> Iterator[list[forked.Fork]]:
    """Collect forks, and end those that are left."""
    made: list[forked.Fork] = []
    yield made
    for fork in made:
        if fork.poll() is None:
            os.killpg(fork.pid, signal.SIGKILL)
            fork.wait(10)


def fork_running(
    monkeypatch: pytest.MonkeyPatch, made: list[forked.Fork], body: Callable[[], int], **env: str
) -> forked.Fork:
    monkeypatch.setattr(forked.boot, "main", lambda _: body())
    fork = forked.Fork(LOOP, dict(os.environ) | env, {1: None, 2: None}, name="qwenft-rank-7")
    made.append(fork)
    return fork


@pytest.mark.parametrize("code", [0, 64, 65, 70])
def test_a_forks_exit_code_is_the_ranks(
    monkeypatch: pytest.MonkeyPatch, child: list[forked.Fork], code: int
) -> None:
    assert fork_running(monkeypatch, child, lambda: code).wait(30) == code


def test_a_fork_has_the_environment_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch, child: list[forked.Fork]
) -> None:
    def body() -> int:
        return 64 + int(os.environ["RANK"]) + ("HOME" not in os.environ)

    assert fork_running(monkeypatch, child, body, RANK="3").wait(30) == 67
    assert "RANK" not in os.environ


def test_an_error_that_nobody_caught_ends_the_fork_and_not_the_launcher_twice(
    monkeypatch: pytest.MonkeyPatch, child: list[forked.Fork]
) -> None:
    def body() -> int:
        raise KeyboardInterrupt

    assert fork_running(monkeypatch, child, body).wait(30) == 70


def test_a_fork_dies_of_the_signals_that_the_launcher_handles(
    monkeypatch: pytest.MonkeyPatch, child: list[forked.Fork]
) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        fork = fork_running(monkeypatch, child, lambda: signal.pause() or 0)
        with pytest.raises(subprocess.TimeoutExpired):
            fork.wait(0.05)
        # No pause before it: a fork that was made leads its session already.
        os.killpg(fork.pid, signal.SIGTERM)
        assert fork.wait(30) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_output_goes_to_the_files_that_the_agent_opened(
    monkeypatch: pytest.MonkeyPatch,
    child: list[forked.Fork],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def body() -> int:
        print("said", flush=False)
        os.kill(os.getpid(), signal.SIGKILL)  # what was said must be out by then
        return 0

    monkeypatch.setattr(forked.boot, "main", lambda _: body())
    with (tmp_path / "out").open("w") as file, capfd.disabled():
        fork = forked.Fork(LOOP, os.environ, {1: file, 2: None}, name="qwenft-rank-0")
        child.append(fork)
        assert fork.wait(30) == -signal.SIGKILL
    assert (tmp_path / "out").read_text() == "said\n"


def test_where_the_launcher_woke_a_driver_the_rank_is_a_program_of_its_own(
    monkeypatch: pytest.MonkeyPatch, child: list[forked.Fork]
) -> None:
    monkeypatch.setattr(forked.torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(forked, "_has_driver", lambda: True)
    program = ("/bin/sh", "-c", "exit 66")
    fork = forked.Fork(program, dict(os.environ), {1: None, 2: None}, name="qwenft-rank-0")
    child.append(fork)
    assert fork.wait(30) == 66


def test_the_driver_is_not_asked_when_a_launcher_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(forked.NVML, raising=False)
    with forked.driver_unasked():
        assert os.environ[forked.NVML] == "1"
    assert forked.NVML not in os.environ
    monkeypatch.setenv(forked.NVML, "0")
    with forked.driver_unasked():
        pass
    assert os.environ[forked.NVML] == "0"


@pytest.mark.parametrize(
    "args",
    [(*LOOP, "train.py"), ("numactl", "-N", "0", *LOOP), ("/usr/bin/other", *LOOP[1:])],
    ids=["a script", "bound to a part of memory", "another interpreter"],
)
def test_only_the_built_in_loop_is_forked(
    monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.setattr(forked, "Fork", lambda *_, **__: pytest.fail("it was forked"))
    started: list[tuple[Any, ...]] = []
    monkeypatch.setattr(forked, "Program", lambda args, **more: started.append((args, more)))
    handler = forked.Handler.__new__(forked.Handler)
    handler._stdout = handler._stderr = None
    handler._popen(args, {"RANK": "1"})
    as_torch_does = {"stdout": None, "stderr": None, "start_new_session": True}
    assert started == [(args, {"env": {"RANK": "1"}} | as_torch_does)]


def test_torchs_agent_has_its_own_way_back_afterwards() -> None:
    before = vars(forked.api)[forked._FACTORY]
    with forked.ranks():
        assert vars(forked.api)[forked._FACTORY] is forked.Handler
    assert vars(forked.api)[forked._FACTORY] is before
