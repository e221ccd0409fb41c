"""Weights & Biases and MLflow themselves, in an environment of their own, read back.

They are installed once, pinned, into the cache; torch and the rest come from this environment.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sysconfig
from pathlib import Path

import pytest

import pinned

pytestmark = [pytest.mark.torch, pytest.mark.full, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
sys.path.append(sys.argv[2])
from qwenft_plan.progress import Progress
from qwenft_trainer.trackers import FINISH_SECONDS, About, Trackers
logs, settings = Path(sys.argv[1]), {"model": "Qwen/Qwen3-8B", "learning_rate": 1e-5}
about = About(name="tune", identity="id-1", logs=logs, settings=settings)
board = Trackers(["wandb", "mlflow"], about)
for step in (1, 2, 3):
    board.update(Progress(attempt=1, step=step, total_steps=3, loss=4.0 - step, learning_rate=0.5))
board.evaluated(3, 1.25)
board.close(patience=FINISH_SECONDS)
"""

# The file is a LevelDB log behind seven bytes: blocks of 32 KiB, chunks that are whole or end one.
READ = """
import struct
import sys
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record
data, at, part = Path(sys.argv[1]).read_bytes(), 7, b""
while at + 7 <= len(data):
    left = 32768 - at % 32768
    if left < 7:
        at += left
        continue
    length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
    part += data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):
        for item in Record.FromString(part).history.item:
            print(item.key or ".".join(item.nested_key), item.value_json)
        part = b""
"""


@pytest.fixture(name="python", scope="module")
def environment() -> Path:
    return pinned.environment("trackers")


@pytest.fixture(name="logs", scope="module")
def told(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = tmp_path_factory.mktemp("logs")
    sources = f"{ROOT / 'operator/src'}{os.pathsep}{ROOT / 'trainer_image/src'}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
    done = subprocess.run(
        [python, "-c", SCRIPT, str(logs), sysconfig.get_path("purelib")],
        env=kept
        | {"PYTHONPATH": sources, "WANDB_MODE": "offline", "MLFLOW_DISABLE_TELEMETRY": "1"},
        check=True,
        timeout=180,
        capture_output=True,
        text=True,
    )
    assert "training goes on without it" not in done.stderr
    assert "curves end early" not in done.stderr
    return logs


def test_mlflow_s_database_holds_the_curves_and_the_settings(logs: Path) -> None:
    with sqlite3.connect(logs / "mlflow.db") as database:
        curves = set(database.execute("select key, step, value from metrics"))
        settings = dict(database.execute("select key, value from params"))
        runs = list(database.execute("select name, status from runs"))
    losses = {("loss", 1, 3.0), ("loss", 2, 2.0), ("loss", 3, 1.0)}
    assert losses | {("eval_loss", 3, 1.25), ("learning_rate", 1, 0.5)} <= curves
    assert settings["model"] == "Qwen/Qwen3-8B"
    assert runs == [("tune", "FINISHED")]


def test_weights_and_biases_keeps_an_offline_run_that_can_be_sent_later(
    logs: Path, python: Path
) -> None:
    (kept,) = (logs / "wandb").glob("offline-run-*-id-1/run-id-1.wandb")
    words = [python, "-c", READ, str(kept)]
    found = subprocess.run(words, check=True, timeout=60, capture_output=True, text=True)
    lines = found.stdout.splitlines()
    losses = [float(line.split()[1]) for line in lines if line.startswith("train/loss ")]
    assert losses == [3.0, 2.0, 1.0]
    assert any(line.startswith("eval/loss 1.25") for line in lines)
