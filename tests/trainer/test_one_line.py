"""Scripts under plans, on real ranks: the numbers they print are those of one plain process.

Three scripts: the tutorial's own (where it lies beside the repository), the repository's sample of
the same shape, and one with what real scripts do beyond it.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from parity import scripted
from parity.plans import PLANS, SPECIAL, WIDER, plan_file
from parity.scripted import Job
from qwenft_trainer import stdlib_sample

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
SEED_SCRIPT = ROOT.parent / "shared" / "seed" / "train_qwen.py"
SAMPLE = ROOT / "manifests" / "samples" / "train_qwen.py"
RICH = Path(__file__).parent / "scripts" / "rich.py"
TOLERANCE = 1e-5
VOCABULARY = 512


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


def launch(script: Path, plan: str, *arguments: str, work: Path) -> str:
    """Run a script by the launcher itself, as a pod does."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("QWENFT_", "PET_"))}
    environ |= {"OMP_NUM_THREADS": "1", "QWENFT_TERMINATION_LOG": str(work / "termination")}
    (work / "plan.json").write_text(json.dumps(plan_file(plan)), encoding="utf-8")
    environ["QWENFT_PLAN"] = str(work / "plan.json")
    command = [sys.executable, "-m", "qwenft_trainer", "--nproc-per-node=2"]
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


def sample_arguments(data: Path, save: Path) -> tuple[str, ...]:
    return ("--model", str(data / "model"), "--dataset", str(data / "dataset.pt"),
            "--batch-size", "8", "--learning-rate", "1e-3", "--epochs", "3",
            "--max-steps", "8", "--output", str(save))  # fmt: skip


def rich_arguments(data: Path, output: Path) -> tuple[str, ...]:
    return ("--model", str(data / "model"), "--dataset", str(data / "dataset.pt"),
            "--output", str(output))  # fmt: skip


@pytest.fixture(scope="module")
def printed(data: Path) -> Callable[[str, str], str]:
    """Look up what a script printed under a plan; the first look runs it."""

    @cache
    def look_up(kind: str, name: str) -> str:
        script, arguments = SCRIPTS[kind]
        place = data / f"{kind} {name} run"
        place.mkdir()
        plan = None if name == "plain" else plan_file(name)
        given = arguments(data, data / f"{kind} {name}")
        job = Job(name=name, script=script, arguments=given, plan=plan)
        ended = scripted.run(place, [job])[name]
        assert ended.code == 0, ended.errors
        return ended.output

    return look_up


SCRIPTS = {
    "tutorial": (SEED_SCRIPT, tutorial_arguments),
    "sample": (SAMPLE, sample_arguments),
    "rich": (RICH, rich_arguments),
}
LINES = {"tutorial": 9, "sample": 8, "rich": 11}
OFTEN = {
    ("tutorial", "pipeline 2"),
    ("sample", "replicate 2"),
    ("sample", "tensor 2"),
    *product(["rich"], PLANS),
}
"""What ``make test`` runs: each script, and the one that does most under each plan."""


def combinations() -> Iterator[Any]:
    for pair in product(SCRIPTS, (*PLANS, *WIDER, *SPECIAL)):
        yield pytest.param(*pair, marks=[] if pair in OFTEN else [pytest.mark.full])


def test_every_script_and_every_plan_is_among_the_frequent() -> None:
    assert {kind for kind, _ in OFTEN} == set(SCRIPTS)
    assert {name for kind, name in OFTEN if kind == "rich"} == set(PLANS)
    assert set(product(SCRIPTS, PLANS)) >= OFTEN


@pytest.mark.parametrize(("kind", "name"), list(combinations()))
def test_a_script_prints_and_saves_what_one_process_does(
    kind: str, name: str, printed: Callable[[str, str], str], data: Path
) -> None:
    if not SCRIPTS[kind][0].is_file():
        pytest.skip(f"left out: the tutorial's script is not at {SEED_SCRIPT}")
    output = printed(kind, name)
    assert len(numbers(output)) == LINES[kind]
    assert_same(output, printed(kind, "plain"))
    saved, plain = data / f"{kind} {name}", data / f"{kind} plain"
    assert_same_weights(saved, plain)
    assert (saved / "tokenizer.json").is_file()
    if kind == "rich":
        whole = torch.load(f"{saved}.pt", weights_only=True)
        assert whole.keys() == torch.load(f"{plain}.pt", weights_only=True).keys()


@pytest.mark.full  # as `qwenft run --script` does in tests/cli
def test_the_launcher_runs_a_script_as_forked_ranks_do(
    printed: Callable[[str, str], str], data: Path, tmp_path: Path
) -> None:
    arguments = sample_arguments(data, tmp_path / "saved")
    output = launch(SAMPLE, "shard 2", *arguments, work=tmp_path)
    assert len(numbers(output)) == LINES["sample"]
    assert_same(output, printed("sample", "plain"))
