"""The plan file: read, written and refused the same way by planner, operator and rank."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_plan.errors import SpecError
from qwenft_plan.plan import SCHEDULES, Plan, Predicted

BY_HAND: dict[str, Any] = {
    "schema_version": 1,
    "world_size": 8,
    "nodes": 2,
    "processes_per_node": 4,
    "pp": 2,
    "dp_replicate": 1,
    "dp_shard": 2,
    "tp": 2,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "global_batch_size": 8,
    "sequence_length": 128,
}


def refusal(**changes: object) -> SpecError:
    with pytest.raises(SpecError) as caught:
        Plan.from_mapping(BY_HAND | changes)
    return caught.value


def test_a_plan_by_hand_needs_no_digest() -> None:
    plan = Plan.from_mapping(BY_HAND)
    assert plan.dp == 2
    assert plan.predicted is None
    assert len(plan.digest) == 10
    assert int(plan.digest, 16) >= 0


def test_writing_and_reading_give_the_same_plan() -> None:
    predicted = Predicted(memory_gib=1.5, tokens_per_second=100.0, mfu=0.4)
    plan = dataclasses.replace(Plan.from_mapping(BY_HAND), predicted=predicted)
    assert Plan.from_json(plan.to_json()) == plan
    assert json.loads(plan.to_json())["predicted"]["memory_gib"] == 1.5


def test_equal_plans_are_equal_bytes_whatever_the_order_of_fields() -> None:
    backwards = Plan.from_mapping(dict(reversed(BY_HAND.items())))
    assert backwards.to_json() == Plan.from_mapping(BY_HAND).to_json()


def test_predictions_do_not_change_the_digest() -> None:
    plan = Plan.from_mapping(BY_HAND)
    predicted = Predicted(memory_gib=9.0, tokens_per_second=1.0, mfu=0.1)
    assert dataclasses.replace(plan, predicted=predicted).digest == plan.digest


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"schema_version": 2}, "schema_version", "2 is unknown"),
        ({"world_size": 4}, "world_size", "nodes · processes_per_node is 8"),
        ({"tp": 1}, "world_size", "pp · dp_replicate · dp_shard · tp is 4"),
        ({"global_batch_size": 16}, "global_batch_size", "is 16 but"),
        ({"pp": 0}, "pp", "at least 1"),
        ({"pp": True}, "pp", "at least 1"),
        ({"pp": 2.0}, "pp", "at least 1"),
        ({"pipeline_schedule": "DAPPLE"}, "pipeline_schedule", "none of GPipe"),
        ({"precision": "fp16"}, "precision", "none of fp32"),
        ({"activation_checkpointing": "some"}, "activation_checkpointing", "none of none"),
        ({"digest": "0000000000"}, "digest", "drop it after an edit"),
        ({"tensor": 2}, "tensor", "not a field of a plan file"),
        ({"predicted": 3}, "predicted", "must be a mapping"),
        ({"predicted": {"memory_gib": "x"}}, "predicted.memory_gib", "must be a number"),
    ],
)
def test_a_contradiction_is_refused_by_field(
    changes: dict[str, object], path: str, words: str
) -> None:
    error = refusal(**changes)
    assert error.path == path
    assert words in error.message


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_a_missing_number_is_named(name: str) -> None:
    rest = {key: value for key, value in BY_HAND.items() if key != name}
    with pytest.raises(SpecError, match="is missing") as caught:
        Plan.from_mapping(rest)
    assert caught.value.path == name


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", "[" * 100_000])
def test_what_is_no_json_object_is_refused(content: str) -> None:
    with pytest.raises(SpecError) as caught:
        Plan.from_json(content)
    assert caught.value.path == "plan"


def test_an_error_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    with pytest.raises(SpecError, match="cannot be read"):
        Plan.load(file)
    file.write_text(json.dumps(BY_HAND | {"tp": 3}), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        Plan.load(file)
    assert caught.value.path == f"{file}.world_size"


def test_a_file_of_bytes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="cannot be read"):
        Plan.load(file)


_degree = st.integers(min_value=1, max_value=8)


@given(
    pp=_degree, replicate=_degree, shard=_degree, tp=_degree, micro=_degree, steps=_degree,
    schedule=st.sampled_from(SCHEDULES),
)  # fmt: skip
def test_every_whole_plan_survives_the_file(
    *, pp: int, replicate: int, shard: int, tp: int, micro: int, steps: int, schedule: str
) -> None:
    world = pp * replicate * shard * tp
    plan = Plan(
        world_size=world, nodes=1, processes_per_node=world, pp=pp, dp_replicate=replicate,
        dp_shard=shard, tp=tp, micro_batch_size=micro, gradient_accumulation_steps=steps,
        global_batch_size=replicate * shard * micro * steps, sequence_length=16,
        pipeline_schedule=schedule,
    )  # fmt: skip
    assert Plan.from_json(plan.to_json()) == plan


def test_a_full_fine_tune_is_not_spelled_out_so_that_digests_stay() -> None:
    plan = Plan.from_mapping(BY_HAND)
    assert plan.method == "full"
    assert "method" not in plan.to_mapping()
    assert Plan.from_mapping(BY_HAND | {"method": "full"}).digest == plan.digest


def test_a_plan_for_adapters_says_so_and_is_another_plan() -> None:
    plan = Plan.from_mapping(BY_HAND | {"method": "lora"})
    assert plan.to_mapping()["method"] == "lora"
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.digest != Plan.from_mapping(BY_HAND).digest


def test_an_unknown_method_is_refused_by_name() -> None:
    assert refusal(method="dora").path == "method"
    assert "none of full, lora, qlora" in str(refusal(method="dora"))


SHARDED = BY_HAND | {"pp": 1, "dp_shard": 4, "gradient_accumulation_steps": 2}


def test_a_plan_that_keeps_its_weights_gathered_says_so_and_is_another_plan() -> None:
    kept = Plan.from_mapping(SHARDED | {"reshard_after_forward": False})
    assert kept.to_mapping()["reshard_after_forward"] is False
    assert "reshard_after_forward" not in Plan.from_mapping(SHARDED).to_mapping()
    assert kept.digest != Plan.from_mapping(SHARDED).digest
    assert Plan.from_json(kept.to_json()) == kept


@pytest.mark.parametrize(
    "changes",
    [
        BY_HAND,
        {"dp_replicate": 4, "dp_shard": 1},
        {"tp": 1, "dp_shard": 8, "gradient_accumulation_steps": 1, "offload_optimizer": True},
    ],
)
def test_only_shards_without_pipeline_and_offload_have_the_choice(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="reshard_after_forward: false is for plans with dp_shard"):
        Plan.from_mapping(SHARDED | changes | {"reshard_after_forward": False})


@pytest.mark.parametrize("value", [0, "no", None])
def test_whether_weights_stay_gathered_is_true_or_false(value: object) -> None:
    with pytest.raises(SpecError, match="reshard_after_forward: must be true or false"):
        Plan.from_mapping(SHARDED | {"reshard_after_forward": value})
