"""A plan that the model cannot be cut by is refused with the numbers, before anything is built."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Qwen2Config

from launching.plans import make_plan
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.validate import check_plan

pytestmark = pytest.mark.torch

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 512,
    "tie_word_embeddings": False,
}


def check(sizes: dict[str, Any], *, processes: int, **degrees: Any) -> None:
    plan = make_plan(processes_per_node=processes, rows=16, **degrees)
    check_plan(plan, Qwen2Config(**(SIZES | sizes)))


@pytest.mark.parametrize(
    ("sizes", "processes", "degrees"),
    [
        ({}, 1, {}),
        ({}, 8, {"tp": 8}),
        ({"num_key_value_heads": 2}, 8, {"tp": 8}),
        ({"num_key_value_heads": 1}, 4, {"tp": 4}),
        ({}, 4, {"pp": 4, "accumulation": 4}),
        ({}, 4, {"pp": 4, "accumulation": 2, "pipeline_schedule": "GPipe"}),
        ({}, 2, {"pp": 2, "accumulation": 2, "pipeline_schedule": "Interleaved1F1B"}),
        ({}, 8, {"pp": 2, "tp": 2, "dp_shard": 2, "accumulation": 2}),
        ({"tie_word_embeddings": True}, 8, {"tp": 2, "dp_shard": 4}),
        ({"num_hidden_layers": 1}, 8, {"dp_shard": 8}),
    ],
)
def test_a_plan_that_divides_the_model_is_let_through(
    sizes: dict[str, Any], processes: int, degrees: dict[str, Any]
) -> None:
    check(sizes, processes=processes, **degrees)


@pytest.mark.parametrize(
    ("sizes", "degrees", "said"),
    [
        ({"num_attention_heads": 6}, {"tp": 4},
         "tp 4 does not divide the model's num_attention_heads 6"),
        ({"intermediate_size": 130}, {"tp": 4}, "intermediate_size 130"),
        ({"vocab_size": 510}, {"tp": 4}, "vocab_size 510"),
        ({"num_key_value_heads": 3, "num_attention_heads": 12}, {"tp": 4},
         "tp 4 and the model's num_key_value_heads 3 do not divide each other"),
        ({}, {"tp": 4, "sequence_length": 30}, "tp 4 does not divide sequence_length 30"),
        ({"tie_word_embeddings": True}, {"pp": 2, "accumulation": 2}, "tied embeddings"),
        ({"num_hidden_layers": 3}, {"pp": 4, "accumulation": 4},
         "1F1B over pp 4 needs 4 stages, but the model has 3 layers"),
        ({"num_hidden_layers": 7}, {"pp": 4, "accumulation": 4,
         "pipeline_schedule": "Interleaved1F1B"},
         "Interleaved1F1B over pp 4 needs 8 stages, but the model has 7 layers"),
        ({}, {"pp": 4, "accumulation": 2},
         "needs at least as many micro-batches, but gradient_accumulation_steps is 2"),
    ],
)  # fmt: skip
def test_a_plan_that_does_not_is_refused_with_both_numbers(
    sizes: dict[str, Any], degrees: dict[str, Any], said: str
) -> None:
    with pytest.raises(PlanInvalid) as caught:
        check(sizes, processes=4, **degrees)
    assert said in str(caught.value)


def test_a_tied_model_under_a_pipeline_is_told_the_way_out() -> None:
    with pytest.raises(PlanInvalid, match="shard or split its tensors instead: pp 1"):
        check({"tie_word_embeddings": True}, processes=2, pp=2, accumulation=2)
