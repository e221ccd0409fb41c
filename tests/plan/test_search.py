"""Every layout worth considering is judged once, in a fixed order, and none that fits is missed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from planning import config, request
from qwenft_plan.hardware import GIB
from qwenft_plan.inventory import Group, Inventory, NodeShape
from qwenft_plan.memory import SAFETY, peak_memory
from qwenft_plan.model import ModelShape
from qwenft_plan.search import Judged, Refused, judge_all, sizes, workload_for
from qwenft_plan.workload import Layout

EXABYTES = 10**18


def group(on: str, memory: int | None = None) -> Group:
    """Return the largest group of an inventory, with its devices' memory replaced."""
    nodes = tuple(
        NodeShape(
            name=node.name, product=node.product, devices=node.devices, device_memory_bytes=memory
        )
        for node in Inventory.parse(on).nodes
    )
    return Inventory(nodes=nodes).groups()[0]


def judged(
    on: str, name: str = "Qwen/Qwen1.5-7B", memory: int | None = None, **sections: Any
) -> list[Judged | Refused]:
    """Return all layouts of the largest size of the largest group."""
    spec, found = request(name, **sections), group(on, memory)
    model = ModelShape.for_spec(spec.model)
    (nodes, per_node), *_ = sizes(spec, found)
    return list(judge_all(spec, model, found, nodes, per_node))


def layouts(found: list[Judged | Refused]) -> list[Layout]:
    return [item.layout for item in found]


def fitting(found: list[Judged | Refused]) -> set[Layout]:
    return {item.layout for item in found if isinstance(item, Judged)}


@pytest.mark.parametrize(
    ("on", "resources", "expected"),
    [
        ("1x8xH100", {}, [(1, 8), (1, 4), (1, 2), (1, 1)]),
        ("1x6xH100", {}, [(1, 6), (1, 4), (1, 2), (1, 1)]),
        ("1x1xH100", {}, [(1, 1)]),
        ("3x8xH100", {"nodes": {"min": 2}}, [(3, 8), (2, 8)]),
        ("3x8xH100", {"nodes": {"min": 2, "max": 2}}, [(2, 8)]),
        ("2x8xH100", {"nodes": {"max": 9}, "gpusPerNode": 8}, [(2, 8), (1, 8)]),
        ("2x8xH100", {"gpusPerNode": 4}, [(2, 4), (1, 4)]),
        ("1x8xH100", {"gpusPerNode": 3}, [(1, 3)]),
        ("1x4xH100", {"gpusPerNode": 8}, []),
        ("2x8xH100", {"nodes": {"min": 3}}, []),
        ("2x4xcpu", {}, [(2, 4), (1, 4)]),
        ("2x4xcpu", {"processesPerNode": 2}, [(2, 2), (1, 2)]),
        ("1x4xcpu", {"processesPerNode": 5}, []),
    ],
)
def test_sizes_lie_between_the_nodes_asked_for_and_the_nodes_there_are(
    on: str, resources: dict[str, Any], expected: list[tuple[int, int]]
) -> None:
    assert list(sizes(request(resources=resources), group(on))) == expected


@pytest.mark.parametrize(("nodes", "most"), [(17, 17), (64, 64), (100, 100), (128, 128)])
def test_large_groups_are_thinned_out_but_keep_their_ends(nodes: int, most: int) -> None:
    counts = [count for count, _ in sizes(request(), group(f"{nodes}x8xH100"))]
    assert counts[0] == most
    assert 1 in counts
    assert len(counts) < 20
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("on", "world"), [("1x8xH100", 8), ("2x8xH100", 16), ("3x4xH100", 12), ("2x4xcpu-900G", 8)]
)
def test_degrees_multiply_to_the_world_size(on: str, world: int) -> None:
    found = layouts(judged(on, training={"batchSize": 48}))
    assert found
    assert {layout.world_size for layout in found} == {world}


@pytest.mark.parametrize("batch", [1, 8, 24, 48])
def test_every_layout_cuts_the_whole_batch(batch: int) -> None:
    found = layouts(judged("1x8xH100", training={"batchSize": batch}))
    assert {layout.global_batch for layout in found} == {batch}


def test_no_layout_is_judged_twice() -> None:
    found = layouts(judged("2x8xH100"))
    assert len(set(found)) == len(found)


def test_the_order_is_always_the_same() -> None:
    assert layouts(judged("1x8xH100")) == layouts(judged("1x8xH100"))


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("Qwen/Qwen1.5-7B", 8),
        ("Qwen/Qwen2.5-7B", 4),
        ("Qwen/Qwen1.5-4B", 4),
        ("Qwen/Qwen2.5-3B", 2),
    ],
)
def test_tensor_degrees_stop_where_the_model_does(name: str, most: int) -> None:
    found = layouts(judged("1x8xH100", name))
    assert max(layout.tp for layout in found) == most


def test_tensor_parallelism_stays_inside_a_node() -> None:
    assert max(layout.tp for layout in layouts(judged("4x4xH100"))) == 4


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-3B", "Qwen/Qwen3-4B"])
def test_tied_models_have_no_pipelines(name: str) -> None:
    assert {layout.pp for layout in layouts(judged("1x8xH100", name))} == {1}


def test_pipelines_cut_the_blocks_evenly() -> None:
    found = layouts(judged("4x8xH100", "Qwen/Qwen2.5-7B"))
    assert {layout.pp for layout in found} == {1, 2, 4}
    assert all(28 % (layout.pp * layout.virtual_stages) == 0 for layout in found)


def test_pipelines_have_micro_batches_enough_for_their_stages() -> None:
    found = [layout for layout in layouts(judged("2x8xH100")) if layout.pp > 1]
    assert found
    assert all(layout.accumulation >= layout.pp for layout in found)


def test_cpu_processes_are_data_parallel_unless_asked_otherwise() -> None:
    found = layouts(judged("2x4xcpu-900G"))
    assert {(layout.tp, layout.pp) for layout in found} == {(1, 1)}


@pytest.mark.parametrize(
    ("fixed", "attribute", "expected"),
    [
        ({"tensor": 2}, "tp", {2}),
        ({"pipeline": 2}, "pp", {2}),
        ({"dataShard": 4}, "dp_shard", {4}),
        ({"dataReplicate": 2}, "dp_replicate", {2}),
        ({"microBatchSize": 2}, "micro_batch", {2}),
        ({"activationCheckpointing": "full"}, "checkpointing", {"full"}),
        ({"activationCheckpointing": "none"}, "checkpointing", {"none"}),
        ({"pipelineSchedule": "GPipe"}, "schedule", {"GPipe"}),
        ({"pipelineSchedule": "ZBVZeroBubble"}, "schedule", {"ZBVZeroBubble"}),
    ],
)
def test_what_the_user_fixed_is_fixed_in_every_layout(
    fixed: dict[str, Any], attribute: str, expected: set[object]
) -> None:
    found = layouts(judged("1x8xH100", memory=EXABYTES, parallelism=fixed))
    assert {getattr(layout, attribute) for layout in found} == expected


def test_a_schedule_that_needs_fewer_micro_batches_allows_more_stages() -> None:
    """A batch of 4 has no 8 stages under 1F1B; GPipe runs 8 stages with fewer micro-batches."""
    batch = {"batchSize": 4}

    def degrees(schedule: str) -> set[int]:
        found = judged("1x8xH100", memory=EXABYTES, training=batch,
                       parallelism={"pipelineSchedule": schedule})  # fmt: skip
        return {layout.pp for layout in layouts(found)}

    assert 8 in degrees("GPipe")
    assert 8 not in degrees("1F1B")
    assert degrees("1F1B") < degrees("GPipe")


def test_all_degrees_fixed_leave_only_recomputation_and_batches() -> None:
    fixed = {"tensor": 2, "pipeline": 2, "dataShard": 2, "dataReplicate": 1}
    found = layouts(judged("1x8xH100", memory=EXABYTES, parallelism=fixed))
    assert {(x.tp, x.pp, x.dp_shard, x.dp_replicate) for x in found} == {(2, 2, 2, 1)}
    assert {layout.checkpointing for layout in found} == {"none", "selective", "full"}


@pytest.mark.parametrize(
    "fixed",
    [{"tensor": 16}, {"dataShard": 3}, {"dataReplicate": 16}, {"dataShard": 2, "tensor": 8}],
)
def test_degrees_that_do_not_divide_the_devices_leave_nothing(fixed: dict[str, int]) -> None:
    assert judged("1x8xH100", parallelism=fixed) == []


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_every_way_to_recompute_is_tried(mode: str) -> None:
    assert mode in {layout.checkpointing for layout in layouts(judged("1x8xH100"))}


def test_a_layout_that_does_not_fit_says_what_it_needs_and_what_there_is() -> None:
    refused = [item for item in judged("1x1xH100") if isinstance(item, Refused)]
    assert {item.layout.checkpointing for item in refused} == {"none", "selective", "full"}
    budget = SAFETY * group("1x1xH100").device.memory
    for item in refused:
        assert item.missing > 0
        needed = (item.missing + budget) / GIB
        assert item.reason == f"needs {needed:.1f} GiB of {budget / GIB:.1f}"


def test_what_fits_stays_below_the_safety_margin() -> None:
    fits = [item for item in judged("1x8xH100") if isinstance(item, Judged)]
    assert fits
    assert all(item.peak <= SAFETY * item.work.device.memory for item in fits)


@pytest.mark.parametrize(
    ("name", "on", "gibibytes"),
    [
        ("Qwen/Qwen1.5-7B", "1x8xH100", 36),
        ("Qwen/Qwen1.5-7B", "1x8xH100", 48),
        ("Qwen/Qwen1.5-7B", "1x8xH100", 80),
        ("Qwen/Qwen2.5-72B", "4x8xH100", 60),
        ("Qwen/Qwen2.5-0.5B", "1x2xL4", 16),
    ],
)
def test_no_layout_that_fits_is_passed_over(name: str, on: str, gibibytes: int) -> None:
    sections = {"training": {"batchSize": 64, "sequenceLength": 1024}}
    memory = gibibytes * GIB
    every = judged(on, name, EXABYTES, **sections)
    spec, found = request(name, **sections), group(on, memory)
    work = workload_for(spec, ModelShape.known(name), found, found.devices)
    expected = {
        item.layout
        for item in every
        if peak_memory(work, item.layout).total <= SAFETY * found.device.memory
    }
    assert fitting(every) == set(layouts(every))
    assert expected
    assert fitting(judged(on, name, memory, **sections)) == expected


def test_a_whole_batch_at_once_is_tried_though_less_at_a_time_needs_accumulated_gradients() -> None:
    # On GPUs what accumulated gradients would take stays reserved for them in any case.
    sections: dict[str, Any] = {"training": {"batchSize": 8, "sequenceLength": 512}}
    every = judged("1x4xcpu", memory=EXABYTES, **sections)
    needs = {item.layout: item.peak for item in every if isinstance(item, Judged)}
    cheaper = [
        layout
        for layout, peak in needs.items()
        if layout.accumulation == 1
        and (half := replace(layout, micro_batch=layout.micro_batch // 2, accumulation=2)) in needs
        and needs[half] > peak
    ]
    assert cheaper
    for layout in cheaper[:3]:
        memory = math.ceil(needs[layout] / SAFETY) + 1
        assert layout in fitting(judged("1x4xcpu", memory=memory, **sections))


@pytest.mark.parametrize("gibibytes", [24, 40, 60, 80, 140])
def test_more_memory_never_drops_a_layout_that_fitted(gibibytes: int) -> None:
    less, more = (
        fitting(judged("1x8xH100", memory=size * GIB)) for size in (gibibytes, gibibytes + 20)
    )
    assert less <= more


def test_memory_asked_for_a_cpu_node_is_shared_by_its_processes() -> None:
    model = {"path": "/data/model", "config": config(vocab_size=50_000)}
    one_gibibyte = {"processesPerNode": 4, "memoryPerNode": "1Gi"}
    found = judged("1x4xcpu-64G", model=model, resources=one_gibibyte)
    budget = SAFETY * 0.25 * GIB
    refused = [item for item in found if isinstance(item, Refused)]
    assert refused
    assert all(item.reason.endswith("of 0.2") for item in refused)
    assert all(item.peak <= budget for item in found if isinstance(item, Judged))


@pytest.mark.parametrize(("precision", "expected"), [("bf16", "bf16_mixed"), ("fp32", "fp32")])
def test_the_workload_has_the_precision_and_length_of_the_request(
    precision: str, expected: str
) -> None:
    spec = request(training={"precision": precision, "sequenceLength": 512})
    work = workload_for(spec, ModelShape.for_spec(spec.model), group("1x8xH100"), 4)
    assert (work.precision, work.sequence_length, work.per_node) == (expected, 512, 4)
    assert (work.runtime.name, work.method.kind) == ("qwenft", "full")


def test_speed_mfu_and_device_hours_agree_with_each_other() -> None:
    item = next(item for item in judged("1x8xH100") if isinstance(item, Judged))
    tokens = 64 * 2048 / item.time.total
    assert item.tokens_per_second == pytest.approx(tokens)
    flops = item.work.model.flops_per_token(2048) * tokens
    assert item.mfu == pytest.approx(flops / (8 * item.work.device.peak_bf16))
    assert item.device_hours_per_billion_tokens == pytest.approx(1e9 / tokens * 8 / 3600)


def test_every_layout_that_fits_has_finite_positive_estimates() -> None:
    for item in judged("2x8xH100"):
        if isinstance(item, Judged):
            assert 0 < item.mfu < 1
            assert all(
                math.isfinite(value) and value > 0
                for value in (item.peak, item.tokens_per_second, item.time.total)
            )


def test_weights_stay_gathered_only_where_that_is_worth_its_memory() -> None:
    found = {item.layout: item for item in judged("4x8xL40S") if isinstance(item, Judged)}
    kept = [item for item in found.values() if not item.layout.reshard_after_forward]
    assert kept
    for item in kept:
        assert item.layout.pp == 1 < item.layout.dp_shard
        twin = found[replace(item.layout, reshard_after_forward=True)]
        assert item.tokens_per_second >= 1.02 * twin.tokens_per_second
        assert item.peak > twin.peak


def test_on_cores_weights_stay_gathered_wherever_they_fit() -> None:
    found = fitting(judged("2x4xcpu", "Qwen/Qwen2.5-0.5B", memory=64 * GIB))
    freed = {each for each in found if each.reshard_after_forward and each.dp_shard > 1 == each.pp}
    assert freed
    assert {replace(each, reshard_after_forward=False) for each in freed} <= found


def test_an_offloaded_optimizer_fetches_its_shards_anew() -> None:
    found = layouts(judged("4x8xL40S-900G", training={"offloadOptimizer": True}))
    assert found
    assert all(each.reshard_after_forward for each in found)
