"""``qwenft run`` with the real trainer: a tiny model, two processes, this machine."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
CONFIG = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}  # fmt: skip
ONE_LINE = "torch.moreh.option.enable_advanced_parallelization()\n"
TINY_SCRIPT = """\
import argparse

import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--dataset")
args = parser.parse_args()
torch.moreh.option.enable_advanced_parallelization()
model = AutoModelForCausalLM.from_pretrained(args.model)
rows = torch.load(args.dataset)["train"]
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(2):
    batch = {k: torch.stack([row[k] for row in rows[step * 4 : step * 4 + 4]]) for k in rows[0]}
    loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step} loss {loss.item():.6f}", flush=True)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model with random weights and a dataset of random rows."""
    import torch  # noqa: PLC0415 - this tier has it, the others must not need it
    from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**CONFIG)).save_pretrained(folder / "model")
    ids = torch.randint(0, 64, (16, 32))
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    torch.save({"train": rows, "validation": rows[:4]}, folder / "set.pt")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    body = {
        "apiVersion": "qwenft.dev/v1alpha1",
        "kind": "QwenFineTune",
        "metadata": {"name": "local"},
        "spec": {
            "model": {"path": "/data/model", "config": {"model_type": "qwen2", **CONFIG}},
            "dataset": {"path": "/data/set.pt"},
            "training": {
                "maxSteps": 3, "batchSize": 4, "sequenceLength": 32, "learningRate": 1e-2,
                "precision": "fp32",
            },
            "output": {"path": "/out/run"},
        },
    }  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(body))
    return path


def train(file: Path, data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    mounts = ("--mount", f"/data={data}", "--mount", f"/out={file.parent}")
    command = [sys.executable, "-m", "qwenft_cli", "run", str(file), *mounts, *words]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


def test_a_plan_made_elsewhere_trains_here_and_leaves_model_and_result(
    file: Path, data: Path
) -> None:
    text = file.read_text().replace('"output"', '"parallelism": {"tensor": 2}, "output"')
    file.write_text(text)
    words = [sys.executable, "-m", "qwenft_cli", "plan", str(file), "--on", "2x1xcpu", "-o", "json"]
    made = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(made.stdout)["tp"] == 2
    plan = file.parent / "plan.json"
    plan.write_text(made.stdout)
    done = train(file, data, "--plan", str(plan))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("local  Succeeded  step 3/3")
    model = file.parent / "run" / "model"
    assert (model / "config.json").is_file()
    assert list(model.glob("*.safetensors"))
    result = (file.parent / "run" / "result.json").read_text()
    assert "validationLossAfter" in result


def test_a_missing_dataset_ends_with_its_code_and_its_path(file: Path, data: Path) -> None:
    file.write_text(file.read_text().replace("/data/set.pt", "/data/gone.pt"))
    done = train(file, data, "--processes", "1")
    assert done.returncode == 65
    assert f"DatasetInvalid: {data}/gone.pt" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_script_prints_the_losses_of_one_plain_process(
    file: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = file.parent / "train.py"
    script.write_text(TINY_SCRIPT)
    words = ("--", "--model", "/data/model", "--dataset=/data/set.pt")
    done = train(file, data, "--script", str(script), "--processes", "2", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    script.write_text(TINY_SCRIPT.replace(ONE_LINE, ""))
    arguments = ["--model", f"{data}/model", f"--dataset={data}/set.pt"]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    runpy.run_path(str(script), run_name="__main__")
    plain = losses(capsys.readouterr().out)
    assert len(plain) == 2
    assert losses(done.stdout) == pytest.approx(plain, abs=1e-5)


def losses(out: str) -> list[float]:
    lines: list[Any] = [line.split() for line in out.splitlines() if line.startswith("step ")]
    return [float(words[-1]) for words in lines]
