"""The trainer as a pod starts it: real launchers, real ranks, real ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from launching.https import endpoint
from launching.plans import MODEL_CONFIG, environ, make_plan, spec
from launching.processes import launcher

pytestmark = pytest.mark.torch

BROKEN_SCRIPT = """\
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
value = torch.ones(1)
dist.all_reduce(value)

def step():
    if dist.get_rank() == 1:
        raise KeyError("no such column: text")
    dist.all_reduce(value)

step()
"""
LONG = {"epochs": 100_000, "maxSteps": 100_000}


def write_inputs(folder: Path, *, tokens: int = 128) -> None:
    """Write a model that is a config only, and a dataset whose ids are below ``tokens``."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(MODEL_CONFIG))
    rows = [{"input_ids": [(7 * n + k) % tokens for k in range(4 + n % 9)]} for n in range(32)]
    torch.save({"train": rows, "validation": rows[:5]}, folder / "set.pt")


def run_to_its_end(folder: Path, **training: Any) -> tuple[int, dict[str, Any]]:
    variables = environ(folder, make_plan(), spec(folder, training=training))
    with launcher(folder, environ=variables) as started:
        return started.end()


def test_a_rank_that_raises_is_the_cause_and_its_peer_that_lost_it_is_not(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(BROKEN_SCRIPT)
    with launcher(tmp_path, "--nproc-per-node=2", str(script), "--epochs", "1") as started:
        code, message = started.end()
    assert (code, message["exitCode"], message["reason"]) == (70, 70, "WorkerError")
    assert message["message"] == "KeyError: 'no such column: text'"
    assert message["rank"] == 1
    last = message["trace"].splitlines()
    assert last[-1] == "KeyError: 'no such column: text'"
    assert f'File "{script}", line 10, in step' in message["trace"]
    assert len(json.dumps(message)) <= 4096


@pytest.mark.full  # `qwenft run` meets a missing one through the same launcher in tests/cli
def test_a_corrupt_dataset_ends_at_once_and_names_the_file(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    path = tmp_path / "set.pt"
    path.write_bytes(path.read_bytes()[:700])
    code, message = run_to_its_end(tmp_path)
    assert (code, message["reason"], message["rank"]) == (65, "DatasetInvalid", 0)
    assert message["message"].startswith(f"{path}: cannot be read")
    assert message["step"] is None
    assert not (tmp_path / "out" / "model").exists()


def test_a_run_that_is_told_to_stop_saves_and_the_next_attempt_finishes_it(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    first = environ(tmp_path, make_plan(), spec(tmp_path, training=LONG))
    with launcher(tmp_path, environ=first) as started:
        started.read_until(lambda line: '"step": 2,' in line)
        started.process.send_signal(signal.SIGTERM)
        code, message = started.end()
    step = message["step"]
    assert (code, message["reason"]) == (64, "Preempted")
    assert message["message"] == f"asked to stop; saved after step {step}"
    assert step >= 2

    request = spec(tmp_path, training=LONG | {"maxSteps": step + 2})
    with endpoint(tmp_path) as operator:
        second = environ(tmp_path, make_plan(), request) | operator.environ
        with launcher(tmp_path, environ=second | {"QWENFT_ATTEMPT": "2"}) as started:
            resumed = started.read_until(lambda line: "resumed" in line)
            code, message = started.end()
        reports = [request.body["qwenft"] for request in operator.received]
    assert resumed == f"resumed after step {step} of {step + 2}\n"
    assert (code, message["reason"]) == (0, "Completed")
    result = message["result"]
    assert result["steps"] == step + 2
    assert result["outputPath"] == f"{tmp_path}/out/model"
    assert (tmp_path / "out" / "model" / "config.json").is_file()
    assert reports[0]["attempt"] == 2
    assert reports[-1]["step"] == reports[-1]["totalSteps"] == step + 2
    assert reports[-1]["validationLoss"] == pytest.approx(result["validationLossAfter"])
