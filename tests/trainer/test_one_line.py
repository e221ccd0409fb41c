"""Scripts under plans, as real processes: the numbers they print are those of one plain process.

Three scripts: the tutorial's own (where it lies beside the repository), the repository's sample of
the same shape, and one with what real scripts do beyond it.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from qwenft_trainer import stdlib_sample

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
SEED_SCRIPT = ROOT.parent / "shared" / "seed" / "train_qwen.py"
SAMPLE = ROOT / "manifests" / "samples" / "train_qwen.py"
RICH = Path(__file__).parent / "scripts" / "rich.py"
TOLERANCE = 1e-5
VOCABULARY = 512
SHAPE = {
    "schema_version": 1, "world_size": 2, "nodes": 1, "processes_per_node": 2, "pp": 1,
    "dp_replicate": 1, "dp_shard": 1, "tp": 1, "micro_batch_size": 8,
    "gradient_accumulation_steps": 1, "global_batch_size": 8, "sequence_length": 20,
}  # fmt: skip
PLANS = {
    "replicate 2": {"dp_replicate": 2, "micro_batch_size": 4},
    "shard 2": {"dp_shard": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 2},
    "tensor 2": {"tp": 2},
    "pipeline 2": {"pp": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 4},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny model with a tokenizer, and records of 5 to 19 tokens padded to 20."""
    directory = tmp_path_factory.mktemp("one_line")
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
            tie_word_embeddings=False, bos_token_id=None, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
        Qwen2ForCausalLM(config).save_pretrained(directory / "model")
    stdlib_sample.train_tokenizer(["def f(x)"]).save_pretrained(directory / "model")
    rows = list(records(40, generator))
    torch.save({"train": rows[:29], "validation": rows[29:]}, directory / "dataset.pt")
    return directory


def records(count: int, generator: torch.Generator) -> Iterator[dict[str, torch.Tensor]]:
    for length in torch.randint(5, 20, (count,), generator=generator).tolist():
        ids, mask = torch.zeros(20, dtype=torch.long), torch.zeros(20, dtype=torch.long)
        ids[:length] = torch.randint(1, VOCABULARY, (length,), generator=generator)
        mask[:length] = 1
        yield {"input_ids": ids, "attention_mask": mask}


def launch(script: Path, plan: dict[str, int] | None, *arguments: str, work: Path) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("QWENFT_", "PET_"))}
    environ |= {"OMP_NUM_THREADS": "1", "QWENFT_TERMINATION_LOG": str(work / "termination")}
    if plan is not None:
        (work / "plan.json").write_text(json.dumps(SHAPE | plan), encoding="utf-8")
        environ["QWENFT_PLAN"] = str(work / "plan.json")
    processes = 1 if plan is None else 2
    command = [sys.executable, "-m", "qwenft_trainer", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(script), *arguments],
        env=environ, cwd=work, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def numbers(output: str) -> list[tuple[str, list[float]]]:
    """Split each printed line into its words and its numbers."""
    lines = [line for line in output.splitlines() if not line.startswith("{")]
    found = r"-?\d+(?:\.\d+)?"
    return [
        (re.sub(found, "#", line), [float(x) for x in re.findall(found, line)]) for line in lines
    ]


def assert_same(output: str, reference: str) -> None:
    ours, theirs = numbers(output), numbers(reference)
    assert [words for words, _ in ours] == [words for words, _ in theirs]
    for (words, values), (_, expected) in zip(ours, theirs, strict=True):
        # A norm above one is held to a relative bound.
        assert values == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE), words


def assert_same_weights(one: Path, other: Path) -> None:
    ours = AutoModelForCausalLM.from_pretrained(one).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(other).state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=5e-5, rtol=0, msg=name)


def tutorial_arguments(data: Path, save: Path) -> tuple[str, ...]:
    return ("--model", str(data / "model"), "--dataset", str(data / "dataset.pt"),
            "--batch-size", "8", "--lr", "1e-3", "--epoch", "3", "--save", str(save))  # fmt: skip


def sample_arguments(data: Path) -> tuple[str, ...]:
    return ("--model", str(data / "model"), "--dataset", str(data / "dataset.pt"),
            "--batch-size", "8", "--learning-rate", "1e-3", "--epochs", "3",
            "--max-steps", "8")  # fmt: skip


def rich_arguments(data: Path, output: Path) -> tuple[str, ...]:
    return ("--model", str(data / "model"), "--dataset", str(data / "dataset.pt"),
            "--output", str(output))  # fmt: skip


@pytest.fixture(scope="module")
def tutorial(data: Path) -> str:
    """Run the tutorial's script in one plain process; return what it prints."""
    if not SEED_SCRIPT.is_file():
        pytest.skip(f"left out: the tutorial's script is not at {SEED_SCRIPT}")
    return launch(SEED_SCRIPT, None, *tutorial_arguments(data, data / "plain"), work=data)


@pytest.fixture(scope="module")
def rich(data: Path) -> str:
    """Run the rich script in one plain process; return what it prints."""
    return launch(RICH, None, *rich_arguments(data, data / "rich"), work=data)


@pytest.mark.parametrize("name", PLANS)
def test_the_tutorials_script_prints_the_losses_of_one_process(
    name: str, tutorial: str, data: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    output = launch(SEED_SCRIPT, PLANS[name], *tutorial_arguments(data, saved), work=tmp_path)
    assert len(numbers(output)) == 9
    assert_same(output, tutorial)
    assert_same_weights(saved, data / "plain")
    assert (saved / "tokenizer.json").is_file()


@pytest.mark.parametrize("name", ["shard 2", "pipeline 2"])
def test_the_samples_script_prints_the_losses_of_one_process(
    name: str, data: Path, tmp_path: Path
) -> None:
    reference = launch(SAMPLE, None, *sample_arguments(data), work=tmp_path)
    output = launch(SAMPLE, PLANS[name], *sample_arguments(data), work=tmp_path)
    assert len(numbers(output)) == 8
    assert_same(output, reference)


@pytest.mark.parametrize("name", PLANS)
def test_a_rich_script_prints_the_numbers_of_one_process(
    name: str, rich: str, data: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    output = launch(RICH, PLANS[name], *rich_arguments(data, saved), work=tmp_path)
    assert_same(output, rich)
    assert_same_weights(saved, data / "rich")
    whole = torch.load(f"{saved}.pt", weights_only=True)
    assert whole.keys() == torch.load(f"{data / 'rich'}.pt", weights_only=True).keys()
