"""What a script cannot do under a pipeline ends in an error that names its line, on every rank."""

import json
from pathlib import Path

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from parity import scripted
from parity.scripted import Job
from qwenft_trainer.failure import PlanInvalid

pytestmark = pytest.mark.torch

SCRIPT = Path(__file__).parent / "scripts" / "impossible.py"
PIPELINE = {
    "schema_version": 1, "world_size": 2, "nodes": 1, "processes_per_node": 2, "pp": 2,
    "dp_replicate": 1, "dp_shard": 1, "tp": 1, "micro_batch_size": 2,
    "gradient_accumulation_steps": 4, "global_batch_size": 8, "sequence_length": 8,
}  # fmt: skip
WAYS_OUT = {
    "tied": ["tie_word_embeddings", "shard or split its tensors instead: pp 1"],
    "logits": ["a training call (with labels) makes no logits", "without labels"],
    "clip": ["a part of the model's parameters", "clip all of model.parameters() at once"],
    "gradients": ["cannot be saved", "save model.state_dict() or optimizer.state_dict()"],
}
OFTEN = {"tied", "gradients"}


def line_of(comment: str) -> int:
    """Return the number of the script's line that ends in this comment."""
    text = SCRIPT.read_text().splitlines()
    (found,) = (n for n, line in enumerate(text, 1) if line.endswith(f"# {comment}"))
    return found


@pytest.mark.parametrize(
    "what", [pytest.param(w, marks=[] if w in OFTEN else [pytest.mark.full]) for w in WAYS_OUT]
)
def test_every_rank_names_the_line_and_the_way_out(what: str, tmp_path: Path) -> None:
    config = Qwen2Config(
        vocab_size=128, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=what == "tied",
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    output = tmp_path / "saved.pt"
    words = ("--model", str(tmp_path / "model"), "--output", str(output), "--what", what)
    job = Job(name=what, script=SCRIPT, arguments=words, plan=PIPELINE)
    ended = scripted.run(tmp_path, [job])[what]
    assert ended.code == PlanInvalid.exit_code, ended.errors
    assert "ended" not in ended.output
    assert not output.exists()
    for rank in range(2):
        told = json.loads((tmp_path / "job-0" / f"error-{rank}.json").read_text())["qwenft"]
        assert told["message"].startswith(f"{SCRIPT}:{line_of(what)}: ")
        assert [part for part in WAYS_OUT[what] if part not in told["message"]] == []
