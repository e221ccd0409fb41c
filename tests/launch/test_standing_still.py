"""Ranks that stand still in the middle of training are named, by their launcher or their peers."""

from __future__ import annotations

import json
import os
import select
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
    """Find the process that runs a rank of the only node, among the launcher's children."""
    found = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in children(launcher_pid)}
    return found[f"qwenft-rank-{rank}"]


def two_ranks(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(MODEL_CONFIG))
    rows = [{"input_ids": [(7 * n + k) % 128 for k in range(4 + n % 9)]} for n in range(32)]
    torch.save({"train": rows}, tmp_path / "set.pt")
    plan = make_plan(processes_per_node=2)
    variables = environ(tmp_path, plan, spec(tmp_path, training=LONG))
    return variables | {"QWENFT_STALL_SECONDS": "8"}


ARGUMENTS = ("--nproc-per-node=2", "--shutdown-timeout=2")


def test_a_rank_that_is_stopped_is_named_by_its_launcher(tmp_path: Path) -> None:
    with launcher(tmp_path, *ARGUMENTS, environ=two_ranks(tmp_path)) as started:
        started.read_until(lambda line: '"step": 3,' in line)
        os.kill(process_of_rank(started.process.pid, 1), signal.SIGSTOP)
        code, message = started.end()
    assert (code, message["reason"], message["rank"]) == (69, "Hung", 1)
    assert "the process of rank 1 is stopped (state T)" in message["message"]


def test_a_rank_that_nobody_can_see_is_waited_for_and_its_peer_says_so(tmp_path: Path) -> None:
    """As where a whole pod is frozen: the launcher is stopped too, until the peer has ended.

    What thaws then has lost its peer, and says so later.
    """
    with launcher(tmp_path, *ARGUMENTS, environ=two_ranks(tmp_path)) as started:
        started.read_until(lambda line: '"step": 3,' in line)
        pid = started.process.pid
        peer, frozen = (process_of_rank(pid, rank) for rank in (0, 1))
        for each in (pid, frozen):
            os.kill(each, signal.SIGSTOP)
        ended = os.pidfd_open(peer)
        assert select.select([ended], [], [], 120)[0], "the peer's watchdog"
        os.close(ended)
        for each in (frozen, pid):
            os.kill(each, signal.SIGCONT)
        code, message = started.end()
    assert (code, message["reason"], message["rank"]) == (69, "CommunicationFailure", 0)
    assert "no sign of life for" in message["message"]
    assert "while training step" in message["message"]
    assert "it waits inside torch" in message["message"]
    # Which collective the peer waits in depends on the moment; the loop is below it in any case.
    assert '/train.py", line' in message["trace"]
    log = started.errors.read_text()
    assert "watchdog: no sign of life" in log
    assert "in _watch" in log
