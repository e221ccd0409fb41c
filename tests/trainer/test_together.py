"""Ranks that do not do the same end in an error that names the script's line and the way out.

Real ranks: otherwise they would train different models silently, or wait for one another.
"""

import json
import re
import time
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from parity import scripted
from parity.scripted import Ended, Job
from qwenft_trainer import stdlib_sample
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.together import fingerprint

pytestmark = pytest.mark.torch

SCRIPT = Path(__file__).parent / "scripts" / "uneven.py"
SHARD = {
    "schema_version": 1, "world_size": 2, "nodes": 1, "processes_per_node": 2, "pp": 1,
    "dp_replicate": 1, "dp_shard": 2, "tp": 1, "micro_batch_size": 4,
    "gradient_accumulation_steps": 1, "global_batch_size": 8, "sequence_length": 8,
}  # fmt: skip
PIPELINE = SHARD | {"dp_shard": 1, "pp": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 4}
PATIENCE = {"QWENFT_PATIENCE_SECONDS": "3"}
BATCHES = ["other tokens", "another order", "another length", "other labels"]
SAVES = {
    "rank 0 saves": "model.save_pretrained()",
    "rank 0 saves and trains": "model.save_pretrained()",
    "rank 1 saves": "model.save_pretrained()",
    "rank 0 gathers": "model.state_dict()",
    "rank 0 writes": "save",
    "rank 0 reads logits": "outputs.logits",
    "rank 0 saves the tokenizer": "PreTrainedTokenizerBase.save_pretrained",
}
PARTINGS = {
    "rank 1 ends early": "the end of the script",
    "rank 0 ends early": "the end of the script",
    "rank 1 leaves the loop": "model.save_pretrained()",
    "rank 1 stands still": "within 3 s",
    "rank 1 evaluates alone": "the end of the script",
}
OFTEN = {"other tokens", "rank 1 saves", "rank 1 ends early", "rank 0 reads logits"}


def some(faults: list[str]) -> list[object]:
    return [pytest.param(f, marks=[] if f in OFTEN else [pytest.mark.full]) for f in faults]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny model with a tokenizer."""
    path = tmp_path_factory.mktemp("together") / "model"
    config = Qwen2Config(
        vocab_size=512, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(path)
    stdlib_sample.train_tokenizer(["def f(x)"]).save_pretrained(path)
    return path


def run(fault: str, plan: dict[str, int], model: Path, place: Path) -> Ended:
    arguments = ("--model", str(model), "--output", str(place / "saved"), "--fault", fault)
    job = Job(name=fault, script=SCRIPT, arguments=arguments, plan=plan, variables=PATIENCE)
    return scripted.run(place, [job])[fault]


def causes(place: Path, ended: Ended) -> list[str]:
    """Return the messages of the ranks that name a cause; a launcher shows the first of them.

    It is one rank at least, not all: a rank that has said its word ends, and what that cuts off on
    another is a lost peer, not a cause.
    """
    files = sorted((place / "job-0").glob("error-*.json"))
    found = [json.loads(path.read_text())["qwenft"] for path in files]
    own = [cause["message"] for cause in found if cause["exit_code"] == PlanInvalid.exit_code]
    assert own, (found, ended.errors)
    return own


def lines(comment: str) -> set[int]:
    """Return the numbers of the script's lines that end in this comment."""
    text = SCRIPT.read_text().splitlines()
    return {number for number, line in enumerate(text, 1) if line.endswith(f"# {comment}")}


def place_of(comment: str) -> re.Pattern[str]:
    """Match any place in the script whose line ends in this comment."""
    places = "|".join(re.escape(f"{SCRIPT}:{number}") + r"\b" for number in lines(comment))
    return re.compile(places)


def test_without_a_fault_the_script_ends_well(model: Path, tmp_path: Path) -> None:
    ended = run("none", SHARD, model, tmp_path)
    assert (ended.code, ended.output.split()) == (0, ["trained", "ended"])


@pytest.mark.parametrize("fault", some(BATCHES))
def test_different_batches_are_refused_on_every_rank(
    fault: str, model: Path, tmp_path: Path
) -> None:
    ended = run(fault, SHARD, model, tmp_path)
    assert (ended.code, ended.output.split()) == (PlanInvalid.exit_code, ["trained"])
    for message in causes(tmp_path, ended):
        assert place_of("the batch").match(message), message
        assert "the ranks were given different batches" in message
        assert "take out DistributedSampler" in message


@pytest.mark.parametrize("fault", some(list(SAVES)))
def test_a_save_to_which_not_all_ranks_come_is_refused(
    fault: str, model: Path, tmp_path: Path
) -> None:
    ended = run(fault, PIPELINE, model, tmp_path)
    for message in causes(tmp_path, ended):
        assert "not all ranks came to" in message
        assert SAVES[fault] in message
        assert place_of("the save").search(message), message
        assert "take it out of `if rank == 0`" in message
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("fault", some(list(PARTINGS)))
def test_a_rank_that_does_something_else_is_named_with_the_line_of_the_call_that_waits(
    fault: str, model: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    ended = run(fault, SHARD, model, tmp_path)
    assert time.monotonic() - began < 60
    for message in causes(tmp_path, ended):
        assert "not all ranks came to" in message
        assert "a call of the model" in message
        assert place_of("the batch").search(message), message
        assert PARTINGS[fault] in message
        assert re.search("rank [01] came to|within 3 s", message)
        assert "let no rank end early" in message


def test_a_fingerprint_tells_shapes_contents_and_absence_apart() -> None:
    ids = torch.arange(6)
    different = [[ids], [ids.flip(0)], [ids.reshape(2, 3)], [ids, None], [None, ids], [ids, ids]]
    assert len({fingerprint(tensors) for tensors in different}) == len(different)
    assert fingerprint([ids]) == fingerprint([ids.clone()])


def test_a_fingerprint_fits_a_signed_number_with_its_negative() -> None:
    for seed in range(100):
        assert 0 <= fingerprint([torch.tensor([seed])]) < 2**62
