"""The fastest plan that fits wins, the simplest among equals, and it is what was asked for."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from planning import config, planned, request
from qwenft_plan.errors import SpecError
from qwenft_plan.hardware import GIB
from qwenft_plan.inventory import Inventory, NodeShape
from qwenft_plan.memory import SAFETY
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import CHECKPOINTING
from qwenft_plan.planner import Planned, plan
from qwenft_plan.search import Judged, judge_all, sizes

SEVEN, LARGE = "Qwen/Qwen1.5-7B", "Qwen/Qwen2.5-72B"
TINY = {"path": "/data/model", "config": config()}

# Requests that a user may make, over models, devices and batches.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("1x8xH100-80G", SEVEN, {}),
    ("1x8xA100-80G", "Qwen/Qwen2.5-7B", {}),
    ("2x8xA100-40G", SEVEN, {}),
    ("4x8xH100", LARGE, {}),
    ("1x8xMI300X", "Qwen/Qwen3-14B", {}),
    ("1x1xL4", "Qwen/Qwen2.5-0.5B", {}),
    ("1x1xB200", "Qwen/Qwen1.5-4B", {"training": {"sequenceLength": 4096}}),
    ("3x4xL40S", "Qwen/Qwen2.5-1.5B", {"training": {"batchSize": 48}}),
    ("2x4xcpu", "tiny", {"model": TINY, "training": {"precision": "fp32"}}),
    ("2x1xcpu-4G", "tiny", {"model": TINY, "training": {"batchSize": 6}}),
]


@cache
def solved(case: int) -> Planned:
    """Return the plan of a case; it is pure, so once is enough."""
    on, name, sections = CASES[case]
    return planned(on, name, **sections)


@cache
def every_fit(case: int) -> tuple[Judged, ...]:
    """Return every layout of a case that fits, found without the planner."""
    on, name, sections = CASES[case]
    spec = request(name, **sections)
    model = ModelShape.for_spec(spec.model)
    return tuple(
        item
        for group in Inventory.parse(on).groups()
        for nodes, per_node in sizes(spec, group)
        for item in judge_all(spec, model, group, nodes, per_node)
        if isinstance(item, Judged)
    )


def wrong(name: str = SEVEN, **sections: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        planned("64x8xH100", name, **sections)
    return caught.value


@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_plan_multiplies_to_its_devices_and_its_batch(case: int) -> None:
    _, name, sections = CASES[case]
    found, spec = solved(case).plan, request(name, **sections)
    assert found.pp * found.dp_replicate * found.dp_shard * found.tp == found.world_size
    assert found.nodes * found.processes_per_node == found.world_size
    assert found.global_batch_size == spec.training.batch_size
    assert found.sequence_length == spec.training.sequence_length
    assert found.precision == spec.training.precision


@pytest.mark.parametrize("case", range(len(CASES)))
def test_no_plan_that_fits_is_more_than_two_percent_faster(case: int) -> None:
    chosen = solved(case).chosen
    fastest = max(item.tokens_per_second for item in every_fit(case))
    assert chosen.tokens_per_second >= 0.98 * fastest


@pytest.mark.parametrize("case", range(len(CASES)))
def test_nothing_as_fast_uses_fewer_devices_or_fewer_stages(case: int) -> None:
    chosen = solved(case).chosen
    every = every_fit(case)
    fastest = max(item.tokens_per_second for item in every)
    close = [item for item in every if item.tokens_per_second >= 0.98 * fastest]
    simplest = min((item.layout.world_size, item.nodes, item.layout.pp) for item in close)
    assert (chosen.layout.world_size, chosen.nodes, chosen.layout.pp) == simplest


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_prediction_is_the_chosen_plan_s_in_few_digits(case: int) -> None:
    found = solved(case)
    assert found.plan.predicted == found.predicted
    assert found.predicted.memory_gib > 0
    assert found.predicted.mfu > 0
    assert found.predicted.tokens_per_second == pytest.approx(
        found.chosen.tokens_per_second, rel=1e-3
    )
    assert found.chosen.peak <= SAFETY * found.chosen.work.device.memory


def test_a_small_model_s_memory_is_not_rounded_to_nothing() -> None:
    found = planned("1x1xcpu", model=TINY, training={"batchSize": 1, "sequenceLength": 8})
    assert found.predicted.memory_gib == pytest.approx(found.chosen.peak / GIB, rel=0.01)
    assert found.predicted.mfu == pytest.approx(found.chosen.mfu, rel=0.01)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_equal_input_gives_byte_equal_output(case: int) -> None:
    on, name, sections = CASES[case]
    one, other = solved(case), planned(on, name, **sections)
    assert one.plan.to_json() == other.plan.to_json()
    assert (one.summary, one.reason) == (other.summary, other.reason)
    assert one.alternatives == other.alternatives


def test_order_and_names_of_nodes_do_not_change_the_plan() -> None:
    kinds = [("H100", 8), ("H100", 4), ("A100-80G", 8), ("cpu", 4)]
    found = set()
    for names, order in (("abcd", kinds), ("dcba", kinds[::-1]), ("wxyz", kinds[2:] + kinds[:2])):
        nodes = tuple(
            NodeShape(name=name, product=product, devices=devices)
            for name, (product, devices) in zip(names, order, strict=True)
        )
        result = planned(Inventory(nodes=nodes))
        found.add((result.plan.to_json(), result.reason, result.alternatives))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("fixed", "attribute", "expected"),
    [
        ({"tensor": 2}, "tp", 2),
        ({"pipeline": 2}, "pp", 2),
        ({"dataShard": 2}, "dp_shard", 2),
        ({"dataReplicate": 2}, "dp_replicate", 2),
        ({"microBatchSize": 2}, "micro_batch_size", 2),
        ({"activationCheckpointing": "full"}, "activation_checkpointing", "full"),
        ({"pipeline": 2, "pipelineSchedule": "GPipe"}, "pipeline_schedule", "GPipe"),
        ({"pipeline": 2, "pipelineSchedule": "ZBVZeroBubble"}, "pipeline_schedule",
         "ZBVZeroBubble"),
    ],
)  # fmt: skip
def test_what_the_user_fixed_is_in_the_plan(
    fixed: dict[str, Any], attribute: str, expected: object
) -> None:
    found = planned("1x8xH200", SEVEN, parallelism=fixed)
    assert getattr(found.plan, attribute) == expected


def test_a_plan_may_be_fixed_completely() -> None:
    fixed = {
        "dataReplicate": 1,
        "dataShard": 2,
        "tensor": 2,
        "pipeline": 2,
        "microBatchSize": 2,
        "activationCheckpointing": "selective",
        "pipelineSchedule": "1F1B",
    }
    found = planned("1x8xH200", SEVEN, parallelism=fixed).plan
    assert (found.dp_replicate, found.dp_shard, found.tp, found.pp) == (1, 2, 2, 2)
    assert (found.micro_batch_size, found.gradient_accumulation_steps) == (2, 16)
    assert (found.activation_checkpointing, found.pipeline_schedule) == ("selective", "1F1B")


@pytest.mark.parametrize(
    ("name", "fixed", "path", "words"),
    [
        (SEVEN, {"tensor": 3}, "tensor", "32 attention heads are not divisible by 3"),
        (
            SEVEN,
            {
                "pipeline": 2,
                "pipelineSchedule": "ZBVZeroBubble",
                "activationCheckpointing": "selective",
            },
            "pipeline",
            "full or none works",
        ),
        ("Qwen/Qwen2.5-7B", {"tensor": 8}, "tensor", "28 attention heads"),
        ("Qwen/Qwen2.5-3B", {"tensor": 4}, "tensor", "2 key/value heads"),
        ("Qwen/Qwen2.5-0.5B", {"pipeline": 2}, "pipeline", "ties its input and output"),
        (SEVEN, {"pipeline": 5}, "pipeline", "32 blocks are not divisible by 5"),
        (SEVEN, {"dataShard": 3}, "dataShard", "64 is not divisible by 3"),
        (SEVEN, {"dataReplicate": 5}, "dataReplicate", "64 is not divisible by 5"),
        (SEVEN, {"microBatchSize": 3}, "microBatchSize", "does not divide the 64"),
        (SEVEN, {"dataShard": 32, "microBatchSize": 4}, "microBatchSize", "the 2 samples"),
        (SEVEN, {"dataShard": 32, "pipeline": 4}, "pipeline", "2 micro-batches"),
        (
            SEVEN,
            {"pipeline": 32, "pipelineSchedule": "Interleaved1F1B"},
            "pipeline",
            "not divisible by 64 chunks",
        ),
    ],
)
def test_a_degree_that_no_cluster_could_satisfy_is_the_user_s_to_mend(
    name: str, fixed: dict[str, Any], path: str, words: str
) -> None:
    error = wrong(name, parallelism=fixed)
    assert error.path == f"spec.parallelism.{path}"
    assert words in error.message


def test_sequences_longer_than_the_model_knows_are_refused() -> None:
    error = wrong("Qwen/Qwen2.5-7B", training={"sequenceLength": 200_000})
    assert error.path == "spec.training.sequenceLength"
    assert "200000 tokens exceed the" in error.message


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [({"min": 2, "max": 2}, {2}), ({"max": 1}, {1}), ({"min": 3}, {3, 4}), ({}, {1, 2, 3, 4})],
)
def test_a_plan_uses_as_many_nodes_as_asked_for(nodes: dict[str, int], expected: set[int]) -> None:
    found = planned("4x8xH100", SEVEN, resources={"nodes": nodes})
    assert found.plan.nodes in expected


def test_more_nodes_are_used_where_they_are_faster() -> None:
    slow, fast = (planned(f"{nodes}x8xH100", LARGE) for nodes in (4, 8))
    assert fast.plan.nodes == 8
    assert fast.predicted.tokens_per_second > 1.5 * slow.predicted.tokens_per_second


def test_a_batch_of_one_sample_a_node_is_not_spread_further_than_it_goes() -> None:
    found = planned("4x1xcpu", model=TINY, training={"batchSize": 2}).plan
    assert found.world_size <= 2


@pytest.mark.parametrize(("wanted", "expected"), [(8, 8), (4, 4), (2, 2)])
def test_a_plan_uses_as_many_devices_a_node_as_asked_for(wanted: int, expected: int) -> None:
    found = planned("2x8xH100", resources={"gpusPerNode": wanted})
    assert found.plan.processes_per_node == expected


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_cpu_plan_uses_as_many_processes_a_node_as_asked_for(processes: int) -> None:
    resources = {"nodes": {"min": 2}, "processesPerNode": processes}
    found = planned("2x4xcpu", model=TINY, resources=resources).plan
    assert (found.nodes, found.processes_per_node) == (2, processes)
    assert (found.tp, found.pp) == (1, 1)


@pytest.mark.parametrize(
    ("resources", "device"),
    [
        ({}, "H100-80GB"),
        ({"gpusPerNode": 1}, "H100-80GB"),
        ({"processesPerNode": 1}, "CPU"),
    ],
)
def test_gpus_come_first_and_cpus_where_processes_are_asked_for(
    resources: dict[str, Any], device: str
) -> None:
    found = planned("4x1xcpu,1x1xH100", model=TINY, resources=resources)
    assert found.chosen.work.device.name == device


def test_the_faster_product_wins_and_products_are_not_mixed() -> None:
    found = planned("1x8xA100-80G,1x8xH100", SEVEN)
    assert found.chosen.work.device.name == "H100-80GB"
    assert found.plan.nodes == 1


def test_the_product_that_can_hold_the_model_wins_over_the_faster_one() -> None:
    found = planned("1x1xH100,1x1xB300", SEVEN)
    assert found.chosen.work.device.name == "B300-270GB"


def test_the_alternatives_are_other_shapes_each_with_one_reason() -> None:
    found = planned("1x8xH100", SEVEN)
    assert 1 <= len(found.alternatives) <= 6
    summaries = [found.summary, *(item.summary for item in found.alternatives)]
    assert len(set(summaries)) == len(summaries)
    assert all(item.rejected for item in found.alternatives)


def test_alternatives_that_fit_come_first_and_in_order_of_speed() -> None:
    found = planned("1x8xH100", SEVEN)
    speeds = [
        item.judged.tokens_per_second for item in found.alternatives if item.judged is not None
    ]
    assert speeds == sorted(speeds, reverse=True)
    fitting = [item.judged is not None for item in found.alternatives]
    assert fitting == sorted(fitting, reverse=True)


def test_the_plan_file_names_known_choices_only() -> None:
    mapping = json.loads(planned("1x8xH100", SEVEN).plan.to_json())
    assert mapping["activation_checkpointing"] in CHECKPOINTING
    assert mapping["pipeline_schedule"] in {"1F1B", "Interleaved1F1B"}
    assert len(mapping["digest"]) == 10


def test_faster_links_do_not_slow_the_plan() -> None:
    def best(network: float) -> Planned:
        nodes = tuple(
            NodeShape(name=str(index), product="H100", devices=8, network_bytes_per_second=network)
            for index in range(2)
        )
        return planned(Inventory(nodes=nodes), SEVEN)

    speeds = [best(network).chosen.tokens_per_second for network in (1e9, 5e10, 4e11)]
    assert speeds[0] <= speeds[1] * 1.02
    assert speeds[1] <= speeds[2] * 1.02


def test_the_planner_takes_any_shape_beside_the_request() -> None:
    spec = request(SEVEN)
    small = ModelShape.known("Qwen/Qwen2.5-0.5B")
    found = plan(spec=spec, model=small, inventory=Inventory.parse("1x1xL4"))
    assert found.chosen.work.model is small
