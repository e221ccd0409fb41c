"""Every plan trains the same model: loss and gradient norm beside the stock Hugging Face loop."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from parity import gang, tiny
from parity.gang import Case
from parity.tiny import Point

pytestmark = pytest.mark.torch

FP32 = Point(loss=1e-5, norm=1e-4)
WRONG = "mean of means"
BF16 = Point(loss=5e-3, norm=5e-2)
FP8 = Point(loss=2e-2, norm=0.2)
LIMITS = {"fp32": FP32, "bf16": BF16, "fp8": FP8}

MODELS: Mapping[str, Mapping[str, Any]] = {
    "qwen2": {},
    "qwen2-gqa": {"num_key_value_heads": 2},
    "qwen2-tied": {"tie_word_embeddings": True, "num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2},
    "llama": {},
    "qwen2-small": {"num_hidden_layers": 2},
}

KEPT = {"reshard_after_forward": False}

# name of the case: (ranks, model, plan, options); every feature is in here once.
PLANS: Mapping[str, tuple[int, str, Mapping[str, Any], Mapping[str, Any]]] = {
    "plain": (1, "qwen2", {}, {}),
    "accumulation 4": (1, "qwen2", {"accumulation": 4}, {}),
    "full recompute": (1, "qwen2", {"activation_checkpointing": "full"}, {}),
    "selective recompute": (1, "qwen2", {"activation_checkpointing": "selective"}, {}),
    "logits at once": (1, "qwen2", {}, {"chunked_loss": False}),
    "compiled": (1, "qwen2", {}, {"compile_backend": "aot_eager"}),
    "tied": (1, "qwen2-tied", {}, {}),
    "qwen3": (1, "qwen3", {}, {}),
    "llama": (1, "llama", {"accumulation": 2}, {}),
    "packed": (1, "qwen2", {"accumulation": 2}, {}),
    "bf16": (1, "qwen2", {"precision": "bf16"}, {}),
    "fp8": (1, "qwen2", {"precision": "fp8"}, {}),
    "packed fp8 recompute": (
        1,
        "qwen2",
        {"precision": "fp8", "accumulation": 2, "activation_checkpointing": "full"},
        {},
    ),
    "fp8 shard 2": (2, "qwen2-gqa", {"dp_shard": 2, "precision": "fp8"}, {}),
    "fp8 pp 2": (2, "qwen2", {"pp": 2, "accumulation": 2, "precision": "fp8"}, {}),
    "replicate 2": (2, "qwen2", {"dp_replicate": 2, "accumulation": 2}, {}),
    "shard 2": (2, "qwen2-gqa", {"dp_shard": 2}, {}),
    "shard 2 accumulation": (2, "qwen2", {"dp_shard": 2, "accumulation": 2}, {}),
    "shard 2 kept": (2, "qwen2", {"dp_shard": 2, "accumulation": 2} | KEPT, {}),
    "bf16 shard 2 kept": (2, "qwen2", {"dp_shard": 2, "precision": "bf16"} | KEPT, {}),
    "tied shard 2": (2, "qwen2-tied", {"dp_shard": 2}, {}),
    "packed shard 2": (2, "qwen2", {"dp_shard": 2}, {}),
    "packed pp 2": (2, "qwen2", {"pp": 2, "accumulation": 2}, {}),
    "packed tp 2": (2, "qwen2-small", {"tp": 2}, {}),
    "bf16 shard 2": (2, "qwen2", {"dp_shard": 2, "precision": "bf16"}, {}),
    "pp 2 GPipe": (2, "qwen2", {"pp": 2, "accumulation": 2, "pipeline_schedule": "GPipe"}, {}),
    "pp 2 1F1B": (2, "qwen3", {"pp": 2, "accumulation": 4}, {}),
    "pp 2 interleaved": (
        2,
        "qwen2",
        {"pp": 2, "accumulation": 4, "pipeline_schedule": "Interleaved1F1B"},
        {},
    ),
    "pp 2 zero bubble": (
        2,
        "qwen2",
        {"pp": 2, "accumulation": 4, "pipeline_schedule": "ZBVZeroBubble"},
        {},
    ),
    "tp 2": (2, "qwen2", {"tp": 2}, {}),
    "tp 2 tied": (2, "qwen2-tied", {"tp": 2}, {}),
    "tp 2 recompute": (2, "qwen3", {"tp": 2, "activation_checkpointing": "full"}, {}),
    "tp 2 compiled": (2, "qwen2-small", {"tp": 2}, {"compile_backend": "aot_eager"}),
    "shard 2 × replicate 2": (
        4,
        "qwen2",
        {"dp_shard": 2, "dp_replicate": 2, "accumulation": 2},
        {},
    ),
    "shard 2 × tp 2": (4, "qwen2-small", {"dp_shard": 2, "tp": 2} | KEPT, {}),
    "shard 2 × pp 2": (4, "qwen2-gqa", {"dp_shard": 2, "pp": 2, "accumulation": 2}, {}),
    "tp 2 × pp 2": (
        4,
        "qwen2",
        {"tp": 2, "pp": 2, "accumulation": 2, "activation_checkpointing": "selective"},
        {},
    ),
    "tp 4 over 2 key heads": (4, "qwen3", {"tp": 4}, {}),
    "pp 4": (4, "qwen2", {"pp": 4, "accumulation": 4}, {}),
    "shard 2 × tp 2 × pp 2": (
        8,
        "qwen2-small",
        {"dp_shard": 2, "tp": 2, "pp": 2, "accumulation": 2},
        {},
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: tiny.write_model(folder / name, tiny.make_config(name.split("-")[0], **changes))
        for name, changes in MODELS.items()
    }


@pytest.fixture(scope="module")
def references(models: Mapping[str, Path]) -> Mapping[str, Sequence[Point]]:
    return {name: tiny.reference(directory) for name, directory in models.items()}


@pytest.fixture(scope="module")
def outcome(models: Mapping[str, Path]) -> Callable[[str], Any]:
    """Look a case's steps up; the first case of a gang size runs all cases of that size."""
    done: dict[str, Any] = {}

    def look_up(name: str) -> Any:
        ranks = 1 if name == WRONG else PLANS[name][0]
        if name not in done:
            cases = [
                Case(
                    name=key,
                    model=models[model],
                    plan=plan,
                    kind="train_packed" if key.startswith("packed") else "train",
                    options=options,
                )
                for key, (size, model, plan, options) in PLANS.items()
                if size == ranks
            ]
            if ranks == 1:
                cases.append(Case(name=WRONG, model=models["qwen2"], kind="mean_of_means"))
            missing = {case.name: {"error": "an earlier case ended the gang"} for case in cases}
            done.update(missing | gang.run(ranks, cases))
        return done[name]

    return look_up


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_trains_like_the_stock_loop(
    name: str, outcome: Callable[[str], Any], references: Mapping[str, Sequence[Point]]
) -> None:
    _, model, plan, _ = PLANS[name]
    found = gang.points(outcome(name))
    assert len(found) == tiny.STEPS
    difference = gang.worst(found, references[model])
    limit = LIMITS[plan.get("precision", "fp32")]
    print(f"{name}: loss {difference.loss:.1e}, gradient norm {difference.norm:.1e}")
    assert difference.loss <= limit.loss
    assert difference.norm <= limit.norm


def test_an_average_of_averages_is_caught(
    outcome: Callable[[str], Any], references: Mapping[str, Sequence[Point]]
) -> None:
    difference = gang.worst(gang.points(outcome(WRONG)), references["qwen2"])
    assert difference.loss > 100 * FP32.loss
    assert difference.norm > 100 * FP32.norm


def test_the_reference_itself_learns(references: Mapping[str, Sequence[Point]]) -> None:
    for steps in references.values():
        assert steps[0].loss > 6.0
        assert all(torch.isfinite(torch.tensor([step.loss, step.norm])).all() for step in steps)
