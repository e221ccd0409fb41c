"""Methods asked for by field: planned as asked, refused with a reason, never taken in silence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwenft_plan.errors import Infeasible, SpecError
from qwenft_plan.hardware import GIB
from qwenft_plan.inventory import Inventory
from qwenft_plan.memory import peak_memory
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import Plan
from qwenft_plan.planner import Planned, plan
from qwenft_plan.spec import FinetuneSpec

SEVEN = "Qwen/Qwen1.5-7B"
EIGHT: dict[str, Any] = {"optimizer": "adamw8bit"}
HOST: dict[str, Any] = {"offloadOptimizer": True}
FOUR: dict[str, Any] = {"method": "qlora"}


def request(training: dict[str, Any] | None = None, **sections: Any) -> FinetuneSpec:
    return FinetuneSpec.from_mapping(
        {
            "model": {"name": SEVEN},
            "dataset": {"path": "/data/dataset.pt"},
            "output": {"path": "/data/out"},
            "training": training or {},
            **sections,
        }
    )


def planned(
    training: dict[str, Any] | None = None, *, on: str = "1x8xH100-80G", **sections: Any
) -> Planned:
    inventory = Inventory.parse(on)
    spec = request(training, **sections)
    return plan(spec=spec, model=ModelShape.known(SEVEN), inventory=inventory)


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({}, ("full", "adamw", False)),
        (EIGHT, ("full", "adamw8bit", False)),
        (HOST, ("full", "adamw", True)),
        (FOUR, ("qlora", "adamw", False)),
        ({"method": "lora"}, ("lora", "adamw", False)),
    ],
)
def test_a_plan_trains_what_was_asked_for(
    training: dict[str, Any], expected: tuple[str, str, bool]
) -> None:
    found = planned(training).plan
    assert (found.method, found.optimizer, found.offload_optimizer) == expected
    assert Plan.from_json(found.to_json()) == replace(found)


def test_lighter_methods_fit_where_full_fine_tuning_does_not() -> None:
    with pytest.raises(Infeasible) as caught:
        planned(on="1x1xH100-80G")
    text = " ".join(caught.value.reasons)
    for training, words in ((HOST, "training.offloadOptimizer: true"), (FOUR, "method: qlora")):
        assert words in text
        assert planned(training, on="1x1xH100-80G").predicted.memory_gib < 73
    assert "adamw8bit" not in text
    with pytest.raises(Infeasible):
        planned(EIGHT, on="1x1xH100-80G")


def test_eight_bits_are_named_where_they_would_do() -> None:
    with pytest.raises(Infeasible) as caught:
        planned(on="1x1xH200")
    assert "training.optimizer: adamw8bit" in " ".join(caught.value.reasons)
    assert planned(EIGHT, on="1x1xH200").predicted.memory_gib < 141


@pytest.mark.parametrize(
    ("training", "axis", "degree"),
    [(FOUR, "tensor", 2), (HOST, "tensor", 2), (HOST, "pipeline", 2)],
)
def test_a_degree_that_a_method_excludes_is_refused_at_its_field(
    training: dict[str, Any], axis: str, degree: int
) -> None:
    with pytest.raises(SpecError) as caught:
        planned(training, parallelism={axis: degree})
    assert caught.value.path == f"spec.parallelism.{axis}"


def test_no_plan_on_offer_has_a_degree_that_the_method_excludes() -> None:
    for training in (FOUR, HOST):
        offered = planned(training, on="2x8xH100-80G")
        judged = [offered.chosen, *(each.judged for each in offered.alternatives if each.judged)]
        assert {each.layout.tp for each in judged} == {1}
        assert training is FOUR or {each.layout.pp for each in judged} == {1}


def test_a_plan_file_that_contradicts_itself_is_refused() -> None:
    fields = planned(FOUR, on="1x2xH100-80G").plan.to_mapping()
    del fields["digest"]
    axes = {"tp": 2, "dp_shard": 1, "dp_replicate": 1, "gradient_accumulation_steps": 64}
    with pytest.raises(SpecError, match="4 bits"):
        Plan.from_mapping(fields | axes | {"micro_batch_size": 1})


def test_a_host_without_room_for_the_optimizer_refuses_it_with_the_numbers() -> None:
    inventory = Inventory.parse("1x1xH100-80G")
    model = ModelShape.known(SEVEN)
    for free, fits in ((64, False), (256, True)):
        nodes = (replace(inventory.nodes[0], host_memory_bytes=free * GIB),)
        there = Inventory(nodes=nodes)
        if fits:
            assert plan(spec=request(HOST), model=model, inventory=there)
            continue
        with pytest.raises(Infeasible, match="free host memory"):
            plan(spec=request(HOST), model=model, inventory=there)


@pytest.mark.parametrize(
    ("training", "field"),
    [
        (HOST | {"method": "lora"}, "offloadOptimizer"),
        (HOST | EIGHT, "offloadOptimizer"),
    ],
)
def test_contradictions_are_refused_at_their_field(training: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        request(training)
    assert caught.value.path == f"spec.training.{field}"


@pytest.mark.parametrize(("training", "field"), [(EIGHT, "optimizer"), (HOST, "offloadOptimizer")])
def test_a_script_brings_its_own_optimizer(training: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        request(training, trainer={"script": {"configMap": {"name": "x"}}})
    assert caught.value.path == f"spec.training.{field}"


def test_a_model_whose_rows_cannot_be_packed_is_refused() -> None:
    model = replace(ModelShape.known(SEVEN), ffn=11000)
    with pytest.raises(SpecError, match="11000 feed-forward columns"):
        plan(spec=request(FOUR), model=model, inventory=Inventory.parse("1x8xH100-80G"))


def test_what_saves_memory_costs_time() -> None:
    fixed = {"parallelism": {"dataShard": 8, "microBatchSize": 1}}
    plain = planned(**fixed).chosen
    for training in (EIGHT, HOST):
        lean = planned(training, **fixed).chosen
        assert peak_memory(lean.work, plain.layout).total < plain.memory.total
        assert lean.time.optimizer > plain.time.optimizer


FP8: dict[str, Any] = {"precision": "fp8"}


def test_fp8_is_planned_where_it_is_asked_for_and_is_compiled() -> None:
    found = planned(FP8, on="1x8xH100-80G")
    assert (found.plan.precision, found.plan.compile, found.plan.tp) == ("fp8", True, 1)
    assert found.plan.to_json().count('"compile": true') == 1


def test_a_plan_says_nothing_of_compilation_where_nothing_is_compiled() -> None:
    assert '"compile"' not in planned().plan.to_json()


def test_fp8_is_predicted_faster_than_compiled_bf16_and_that_than_bf16() -> None:
    speeds = [
        planned(training, on="1x8xH200").predicted.tokens_per_second
        for training in ({}, {"compile": True}, FP8)
    ]
    assert speeds == sorted(speeds)
    assert len(set(speeds)) == 3


def test_fp8_leaves_nodes_out_whose_gpus_have_none() -> None:
    found = planned(FP8, on="1x8xA100-80G,1x8xH100-80G")
    assert found.chosen.group.device.name == "H100-80GB"


@pytest.mark.parametrize("nodes", ["2x8xA100-80G", "1x8xcpu"])
def test_fp8_without_a_gpu_that_has_it_is_refused_with_a_way_out(nodes: str) -> None:
    with pytest.raises(Infeasible, match="cannot multiply in fp8 faster than in bf16; take bf16"):
        planned(FP8, on=nodes)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_fp8_under_frozen_weights_is_refused(method: str) -> None:
    with pytest.raises(SpecError, match="fp8 is for method full") as caught:
        request(FP8 | {"method": method})
    assert caught.value.path == "spec.training.precision"


def test_fp8_has_no_tensor_parallel_plan() -> None:
    with pytest.raises(SpecError, match="not split over tensor-parallel ranks; shard them instead"):
        planned(FP8, parallelism={"tensor": 2})


@pytest.mark.parametrize("training", [FP8, {"compile": True}])
def test_zero_bubble_is_not_compiled(training: dict[str, Any]) -> None:
    fixed = {"pipeline": 2, "pipelineSchedule": "ZBVZeroBubble"}
    with pytest.raises(SpecError, match="cannot be compiled") as caught:
        planned(training, parallelism=fixed)
    assert caught.value.path == "spec.training.compile"
