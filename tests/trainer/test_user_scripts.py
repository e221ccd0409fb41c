"""Fine-tuning scripts as people write them: equal to one process, or refused by line and way out.

``scripts/user_*.py`` each do something that the tutorial does not. Where a plan cannot do it, the
error names the line that ends in the comment given here.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from parity import scripted
from parity.plans import PLANS, WIDER, plan_file
from parity.scripted import Ended, Job
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.here import cuda_calls
from qwenft_trainer.patches import replaced

pytestmark = pytest.mark.torch

SCRIPTS = Path(__file__).parent / "scripts"
TOLERANCE = 1e-5
EQUAL = ("accumulate", "checkpoint", "count", "early", "ema", "iterable", "layers", "main", "norm",
         "own_optimizer", "resume", "say")  # fmt: skip
REFUSED = {
    ("adafactor", None): ("the call", "use torch.optim.AdamW"),
    ("custom_loss", None): ("the call", "pass labels=…"),
    ("hook", None): ("the hook", "between loss.backward() and optimizer.step()"),
    ("inner", None): ("the module", "use model.named_parameters()"),
    ("modules", None): ("the modules", "use model.named_parameters()"),
    **{
        ("norm", name): ("the norm", "take the norm from clip_grad_norm_")
        for name in (*PLANS, *WIDER)
        if "pipeline" in name
    },
    ("peft", None): ("the call", "training.method: lora"),
    ("sum", None): ("the sum", "a gradient's norm from clip_grad_norm_"),
    ("trainer", None): ("the call", "write the loop"),
}
OFTEN = {
    "accumulate": "replicate 2", "checkpoint": "pipeline 2", "count": "pipeline 2",
    "early": "shard 2", "ema": "pipeline 2", "iterable": "replicate 2", "layers": "shard 2",
    "main": "tensor 2", "norm": "tensor 2", "own_optimizer": "replicate 2", "resume": "shard 2",
    "say": "shard 2", "hook": "shard 2", "inner": "pipeline 2",
    "sum": "shard 2",
}  # fmt: skip
"""What ``make test`` runs: most scripts once, and each plan several times."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("user")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            tie_word_embeddings=False, bos_token_id=None, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
        Qwen2ForCausalLM(config).save_pretrained(directory / "model")
    rows = list(records(40))
    torch.save({"train": rows[:29], "validation": rows[29:]}, directory / "dataset.pt")
    return directory


def records(count: int) -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for length in torch.randint(5, 20, (count,), generator=generator).tolist():
        ids, mask = torch.zeros(20, dtype=torch.long), torch.zeros(20, dtype=torch.long)
        ids[:length] = torch.randint(1, 128, (length,), generator=generator)
        mask[:length] = 1
        yield {"input_ids": ids, "attention_mask": mask}


Run = Callable[..., tuple[Ended, Path]]


@pytest.fixture(scope="module")
def run(data: Path) -> Run:
    """Run a script under a plan, once; return how it ended and its folder."""

    @cache
    def once(
        script: str, name: str, compiler: str = "", precision: str = "fp32"
    ) -> tuple[Ended, Path]:
        place = data / f"{script} {name} {compiler} {precision}"
        place.mkdir()
        words = ("--model", str(data / "model"), "--dataset", str(data / "dataset.pt"),
                 "--output", str(place / "saved"))  # fmt: skip
        job = Job(
            name=name,
            script=SCRIPTS / f"user_{script}.py",
            arguments=words,
            plan=None if name == "plain" else plan_file(name, precision=precision),
            variables={"QWENFT_PATIENCE_SECONDS": "60", "QWENFT_COMPILE": compiler},
        )
        return scripted.run(place, [job])[name], place

    return once


def words_and_numbers(output: str) -> list[str | float]:
    return [float(w) if w.replace(".", "").isdigit() else w for w in output.split()]


def line_of(script: str, comment: str) -> int:
    text = (SCRIPTS / f"user_{script}.py").read_text().splitlines()
    return next(n for n, line in enumerate(text, 1) if line.endswith(f"# {comment}"))


def refusal(script: str, name: str) -> tuple[str, str] | None:
    return REFUSED.get((script, name)) or REFUSED.get((script, None))


ALL = sorted({*EQUAL, *(script for script, _ in REFUSED)})


def pairs() -> Iterator[Any]:
    for script, name in product(ALL, PLANS):
        often = OFTEN.get(script) == name or (script, name) == ("norm", "pipeline 2")
        yield pytest.param(script, name, marks=[] if often else [pytest.mark.full])
    for script, name in product(EQUAL, WIDER):
        yield pytest.param(script, name, marks=[pytest.mark.full])


@pytest.mark.parametrize(("script", "name"), list(pairs()))
def test_a_script_does_what_one_process_does_or_is_told_why_not(
    script: str, name: str, run: Run
) -> None:
    ended, place = run(script, name)
    if refusal(script, name) is not None:
        assert_told_why_not(script, name, ended, place)
    else:
        assert_as_one_process(run, script, ended, place)


def assert_told_why_not(script: str, name: str, ended: Ended, place: Path) -> None:
    expected = refusal(script, name)
    assert expected is not None
    comment, way_out = expected
    assert ended.code == PlanInvalid.exit_code, ended.errors
    told = json.loads((place / "job-0" / "error-0.json").read_text())["qwenft"]["message"]
    assert told.startswith(f"{SCRIPTS / f'user_{script}.py'}:{line_of(script, comment)}: ")
    assert way_out in told


def assert_as_one_process(run: Run, script: str, ended: Ended, place: Path) -> None:
    assert ended.code == 0, ended.errors
    plain, reference = run(script, "plain")
    assert plain.code == 0, plain.errors
    ours, theirs = words_and_numbers(ended.output), words_and_numbers(plain.output)
    assert len(theirs) >= 8
    assert same(ours, theirs), f"{ended.output}\n{plain.output}"
    if (reference / "saved").is_dir():
        assert_same_weights(place / "saved", reference / "saved")


def test_every_plan_is_among_the_frequent() -> None:
    assert set(OFTEN.values()) == set(PLANS)
    assert set(OFTEN) <= set(ALL)
    assert set(EQUAL) <= set(OFTEN)


def test_a_script_is_compiled_where_the_environment_asks(run: Run) -> None:
    ended, place = run("layers", "shard 2", "no compiler")
    assert ended.code == PlanInvalid.exit_code
    told = json.loads((place / "job-0" / "error-0.json").read_text())["qwenft"]["message"]
    assert "user_layers.py:" in told
    assert "QWENFT_COMPILE: torch has no compiler 'no compiler'; it has " in told


def test_the_loading_of_a_model_is_told_once_beside_the_script_s_own_output(run: Run) -> None:
    ended, place = run("layers", "shard 2")
    told = (place / "job-0" / "stderr-0").read_text()
    assert f"qwenft: loading {place.parent / 'model'} (pp 1 × dp 2 × tp 1)" in told
    assert f"qwenft: {place.parent / 'model'} is in place" in told
    assert "qwenft: " not in (place / "job-0" / "stderr-1").read_text()
    assert "qwenft" not in ended.output


def test_the_compiler_finds_its_rules_beside_the_calls_that_do_nothing() -> None:
    with replaced(cuda_calls()):
        torch._dynamo.trace_rules.get_torch_obj_rule_map.cache_clear()
        assert torch._dynamo.trace_rules.get_torch_obj_rule_map()
    torch._dynamo.trace_rules.get_torch_obj_rule_map.cache_clear()


@pytest.mark.full
@pytest.mark.parametrize("name", PLANS)
def test_a_compiled_script_prints_what_one_process_does(name: str, run: Run) -> None:
    ended, place = run("layers", name, "aot_eager")
    assert_as_one_process(run, "layers", ended, place)


@pytest.mark.full
@pytest.mark.parametrize("name", PLANS)
def test_a_script_in_bf16_prints_nearly_what_one_process_does_in_fp32(name: str, run: Run) -> None:
    ended, _ = run("accumulate", name, precision="bf16")
    assert ended.code == 0, ended.errors
    ours, theirs = (
        words_and_numbers(each.output) for each in (ended, run("accumulate", "plain")[0])
    )
    assert not same(ours, theirs), "as exact as fp32"
    assert same(ours, theirs, tolerance=5e-3), f"{ours}\n{theirs}"


@pytest.mark.full
@pytest.mark.parametrize("name", ["replicate 2", "pipeline 2"])
def test_a_script_s_own_checkpoint_is_the_file_that_one_process_writes(name: str, run: Run) -> None:
    _, place = run("checkpoint", name)
    _, reference = run("checkpoint", "plain")
    ours, theirs = (torch.load(where / "saved.ckpt") for where in (place, reference))
    assert list(ours["model"]) == list(theirs["model"])
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    mine, others = ours["optimizer"]["state"], theirs["optimizer"]["state"]
    assert list(mine) == list(others)
    for index, entry in others.items():
        torch.testing.assert_close(mine[index], entry, atol=1e-5, rtol=1e-4)


def same(ours: list[Any], theirs: list[Any], *, tolerance: float = TOLERANCE) -> bool:
    """Compare words exactly and numbers nearly."""
    return len(ours) == len(theirs) and all(
        a == b if isinstance(b, str) else a == pytest.approx(b, abs=tolerance, rel=tolerance)
        for a, b in zip(ours, theirs, strict=True)
    )


def assert_same_weights(one: Path, other: Path) -> None:
    ours = Qwen2ForCausalLM.from_pretrained(one).state_dict()
    for name, value in Qwen2ForCausalLM.from_pretrained(other).state_dict().items():
        torch.testing.assert_close(ours[name], value, atol=5e-5, rtol=0, msg=name)
