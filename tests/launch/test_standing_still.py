"""A rank that the kernel stops in the middle of training: its peer notices and ends the attempt."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from launching.plans import MODEL_CONFIG, environ, make_plan, spec
from launching.processes import launcher

pytestmark = [pytest.mark.torch, pytest.mark.full]

LONG = {"epochs": 100_000, "maxSteps": 100_000}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def process_of_rank(launcher_pid: int, rank: int) -> int:
    """Find the process that runs a rank, among the launcher's children."""
    wanted = f"RANK={rank}".encode()
    for pid in children(launcher_pid):
        if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"no process of rank {rank}")


def test_a_rank_that_stands_still_is_noticed_by_its_peer(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(MODEL_CONFIG))
    rows = [{"input_ids": [(7 * n + k) % 128 for k in range(4 + n % 9)]} for n in range(32)]
    torch.save({"train": rows}, tmp_path / "set.pt")
    plan = make_plan(processes_per_node=2)
    variables = environ(tmp_path, plan, spec(tmp_path, training=LONG))
    variables |= {"QWENFT_STALL_SECONDS": "8"}
    arguments = ("--nproc-per-node=2", "--shutdown-timeout=2")
    with launcher(tmp_path, *arguments, environ=variables) as started:
        started.read_until(lambda line: '"step": 3,' in line)
        os.kill(process_of_rank(started.process.pid, 1), signal.SIGSTOP)
        code, message = started.end()
    assert (code, message["reason"], message["rank"]) == (69, "CommunicationFailure", 0)
    assert "no sign of life for" in message["message"]
    assert "while training step" in message["message"]
    # Which collective the peer waits in depends on the moment; the loop is below it in any case.
    assert '/train.py", line' in message["trace"]
    log = started.errors.read_text()
    assert "watchdog: no sign of life" in log
    assert "in _watch" in log
