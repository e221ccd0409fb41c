"""Which plans a model can be cut by; the others are refused before anything is built."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from parity import gang, tiny
from parity.gang import Case
from qwenft_trainer.execution import stage_count, stage_indices
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.validate import check_plan

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("model", "plan", "words"),
    [
        ({"num_attention_heads": 6}, {"tp": 4}, "num_attention_heads 6"),
        ({"intermediate_size": 130}, {"tp": 4}, "intermediate_size 130"),
        ({"vocab_size": 510}, {"tp": 4}, "vocab_size 510"),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 3},
            {"tp": 4},
            "num_key_value_heads 3",
        ),
        ({"tie_word_embeddings": True}, {"pp": 2, "accumulation": 2}, "tie_word_embeddings"),
        ({"num_hidden_layers": 2}, {"pp": 4, "accumulation": 4}, "has 2 layers"),
        ({}, {"pp": 4, "accumulation": 2}, "gradient_accumulation_steps is 2"),
        (
            {"num_hidden_layers": 3},
            {"pp": 2, "accumulation": 2, "pipeline_schedule": "Interleaved1F1B"},
            "needs 4 stages",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_with_its_number(
    model: Mapping[str, Any], plan: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(PlanInvalid, match=words):
        check_plan(tiny.make_plan(**plan), tiny.make_config(**model))


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        ({}, {}),
        ({}, {"tp": 4}),
        ({"num_key_value_heads": 2}, {"tp": 4}),
        ({"num_key_value_heads": 1}, {"tp": 4}),
        ({"tie_word_embeddings": True}, {"tp": 2, "dp_shard": 2}),
        ({}, {"pp": 4, "accumulation": 1, "pipeline_schedule": "GPipe"}),
        ({}, {"pp": 2, "accumulation": 2, "pipeline_schedule": "ZBVZeroBubble"}),
    ],
)
def test_what_can_be_cut_passes(model: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    check_plan(tiny.make_plan(**plan), tiny.make_config(**model))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("GPipe", [(0,), (1,), (2,), (3,)]),
        ("1F1B", [(0,), (1,), (2,), (3,)]),
        ("Interleaved1F1B", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("ZBVZeroBubble", [(0, 7), (1, 6), (2, 5), (3, 4)]),
    ],
)
def test_the_stages_of_each_rank(schedule: str, expected: list[tuple[int, ...]]) -> None:
    plan = tiny.make_plan(pp=4, accumulation=4, pipeline_schedule=schedule)
    assert [stage_indices(plan, rank) for rank in range(4)] == expected
    assert stage_count(plan) == sum(map(len, expected))


def test_one_stage_is_one_stage_under_any_schedule() -> None:
    assert stage_count(tiny.make_plan(pipeline_schedule="ZBVZeroBubble")) == 1


BIG_PLANS: Mapping[str, Mapping[str, Any]] = {
    "shard 64": {"dp_shard": 64},
    "replicate 4 × shard 16": {"dp_replicate": 4, "dp_shard": 16},
    "tensor 8 × shard 8": {"tp": 8, "dp_shard": 8},
    "pipeline 8 × tensor 8": {"pp": 8, "tp": 8, "accumulation": 8},
    "all four axes": {"pp": 4, "tp": 4, "dp_shard": 2, "dp_replicate": 2, "accumulation": 4},
    "interleaved": {
        "pp": 4,
        "tp": 2,
        "dp_shard": 4,
        "accumulation": 4,
        "pipeline_schedule": "Interleaved1F1B",
    },
}


def build(tmp_path: Path, plan: Mapping[str, Any], ranks: Sequence[int] = ()) -> Any:
    """Build ranks of a plan on torch's fake process group; also returns the model's config."""
    numbers = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 8}
    tiny.make_config(**numbers, intermediate_size=128).save_pretrained(tmp_path)
    options = {"config": tmp_path, "ranks": list(ranks)}
    case = Case(name="big", plan={"rows": 64, **plan}, kind="fake", options=options)
    return gang.run(1, [case])["big"], AutoConfig.from_pretrained(tmp_path)


def test_the_corners_of_sixty_four_ranks_can_be_built(tmp_path: Path) -> None:
    found, _ = build(tmp_path, BIG_PLANS["all four axes"], ranks=(0, 27, 63))
    assert min(found["sizes"]) > 0
    first, middle, last = found["held"]
    assert "model.embed_tokens.weight" in first
    assert "model.embed_tokens.weight" not in middle
    assert "lm_head.weight" in last
    assert "lm_head.weight" not in middle


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", BIG_PLANS)
def test_sixty_four_ranks_hold_the_model_once_for_each_replica(name: str, tmp_path: Path) -> None:
    found, config = build(tmp_path, BIG_PLANS[name])
    plan = tiny.make_plan(rows=64, **BIG_PLANS[name])
    split, whole = sizes(config, plan.tp)
    assert len(found["sizes"]) == plan.world_size
    assert sum(found["sizes"]) == plan.dp_replicate * (split + plan.tp * whole)
    assert min(found["sizes"]) > 0


def sizes(config: Any, tp: int) -> tuple[int, int]:
    """Count the elements that tensor parallelism splits, and those that each rank has whole."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    query = config.num_attention_heads * config.head_dim
    key = config.num_key_value_heads * config.head_dim
    norms = hidden * (2 * layers + 1)
    keys = layers * 2 * (key * hidden + key)
    rest = layers * (query * hidden * 2 + query + 3 * hidden * config.intermediate_size)
    vocabulary = 2 * config.vocab_size * hidden
    replicated_keys = tp > config.num_key_value_heads
    split = rest + vocabulary + (0 if replicated_keys else keys)
    return split, norms + (keys if replicated_keys else 0)
