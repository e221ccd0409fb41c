"""A step is computation, exposed communication, idle stages and fixed costs, part by part."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from planning import DEVICE, MEGATRON_LIKE, MODEL, UNFUSED, layout, work
from qwenft_plan.compute import block_time, head_time
from qwenft_plan.cost import TimeParts, step_time, tokens_per_second
from qwenft_plan.network import span
from qwenft_plan.workload import Method, Workload

WIDE = replace(MODEL, layers=8)
BANDWIDTH = span(work(), ranks=8, stride=1).bandwidth  # inside a node, for every group
NO_MATHS = replace(DEVICE, matmul_bf16=1e30, attention=1e30, hbm=1e30)
"""Computation takes no time, so nothing hides communication."""


def part(name: str, question: Workload, **shape: Any) -> float:
    return float(getattr(step_time(question, layout(**shape)), name))


def test_one_device_computes_its_blocks_and_its_head_and_talks_to_nobody() -> None:
    parts = step_time(work(), layout())
    expected = 4 * block_time(work(), layout()).device + head_time(work(), layout())
    assert parts.compute == pytest.approx(expected)
    assert parts.tensor == parts.shard == parts.replicate == parts.pipeline == parts.bubble == 0.0


def test_the_parts_add_up_to_the_step() -> None:
    parts = step_time(work(), layout(tp=2, dp_shard=2, pp=2, accumulation=4))
    total = sum(getattr(parts, field.name) for field in fields(TimeParts))
    assert parts.total == pytest.approx(total)


def test_tokens_a_second_are_the_step_s_tokens_over_its_seconds() -> None:
    shape = layout(dp_shard=4, micro_batch=2, accumulation=3)
    expected = 4 * 2 * 3 * 1000 / step_time(work(), shape).total
    assert tokens_per_second(work(), shape) == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_micro_batches_of_a_step_are_computed_one_after_the_other(count: int) -> None:
    one = part("compute", work())
    assert part("compute", work(), accumulation=count) == pytest.approx(count * one)


def test_the_optimizer_runs_once_a_step() -> None:
    assert part("optimizer", work(), accumulation=8) == part("optimizer", work())


@pytest.mark.parametrize("ranks", [2, 8])
def test_sharded_states_make_the_optimizer_faster(ranks: int) -> None:
    whole = part("optimizer", work())
    assert part("optimizer", work(), dp_shard=ranks) == pytest.approx(whole / ranks)
    assert part("optimizer", work(), dp_replicate=ranks) == whole


def test_fixed_costs_come_once_a_step() -> None:
    runtime = replace(UNFUSED, step=0.5)
    assert part("overhead", work(runtime=runtime), accumulation=8) == 0.5


def test_a_slow_host_makes_the_step_wait_for_its_kernels() -> None:
    slow = work(runtime=replace(UNFUSED, launch=1.0))
    assert part("compute", slow) >= 4 * 1.0
    assert part("compute", slow, checkpointing="full") > part("compute", slow)


@pytest.mark.parametrize(("checkpointing", "calls"), [("none", 4), ("full", 6)])
@pytest.mark.parametrize("tp", [2, 4])
def test_tensor_parallelism_reduces_activations_four_times_a_block_and_six_when_recomputing(
    checkpointing: str, calls: int, tp: int
) -> None:
    volume = 2 * 1000 * 100
    seconds = part("tensor", work(), tp=tp, checkpointing=checkpointing)
    ring = 2 * (tp - 1) / tp * volume / BANDWIDTH
    assert seconds == pytest.approx(4 * calls * ring)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_what_a_runtime_hides_of_tensor_communication_is_not_counted(share: float) -> None:
    overlapping = work(runtime=replace(UNFUSED, tp_exposed=share))
    assert part("tensor", overlapping, tp=4) == pytest.approx(share * part("tensor", work(), tp=4))


def test_tensor_parallelism_across_nodes_is_far_slower_than_inside_one() -> None:
    inside = part("tensor", work(), tp=4)
    assert part("tensor", work(per_node=2), tp=4) > 3 * inside


def test_a_context_parallel_ring_passes_keys_and_values_around() -> None:
    assert part("tensor", work(), cp=1) == 0.0
    two, four = (part("tensor", work(), cp=cp) for cp in (2, 4))
    assert 0 < two < four


def test_full_sharding_gathers_weights_twice_and_scatters_gradients_every_micro_batch() -> None:
    shape: dict[str, Any] = {"dp_shard": 8}
    bare = work(device=NO_MATHS)
    gather = 7 / 8 * 2 * MODEL.parameters / BANDWIDTH
    scatter = 7 / 8 * 4 * MODEL.parameters / BANDWIDTH
    expected = 2 * gather + scatter
    assert part("shard", bare, **shape) == pytest.approx(expected, rel=1e-3)
    assert part("shard", bare, **shape, accumulation=3) == pytest.approx(3 * expected, rel=1e-3)


@pytest.mark.parametrize("count", [1, 4])
def test_weights_that_stay_are_gathered_once_a_step_and_gradients_scattered_once(
    count: int,
) -> None:
    once = 7 / 8 * (2 + 4) * MODEL.parameters / BANDWIDTH
    shape: dict[str, Any] = {"dp_shard": 8, "accumulation": count, "reshard_after_forward": False}
    assert part("shard", work(device=NO_MATHS), **shape) == pytest.approx(once, rel=1e-3)


def test_a_sharded_optimizer_gathers_weights_once_a_step() -> None:
    bare = work(runtime=MEGATRON_LIKE, device=NO_MATHS)
    gather = 7 / 8 * 2 * MODEL.parameters / BANDWIDTH
    for count in (1, 4):
        seconds = part("shard", bare, dp_shard=8, zero=1, accumulation=count)
        assert seconds == pytest.approx(gather, rel=1e-3)


def test_computation_hides_sharding_that_is_shorter_than_itself() -> None:
    slow_maths = work(device=replace(DEVICE, matmul_bf16=1e9))
    assert part("shard", slow_maths, dp_shard=8) == 0.0


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_share_of_sharding_is_never_hidden(share: float) -> None:
    runtime = replace(UNFUSED, shard_exposed=share)
    slow_maths = work(runtime=runtime, device=replace(DEVICE, matmul_bf16=1e9))
    whole = part("shard", work(runtime=runtime, device=NO_MATHS), dp_shard=8)
    assert part("shard", slow_maths, dp_shard=8) == pytest.approx(share * whole, rel=0.01)


def test_no_sharding_means_no_gathering() -> None:
    assert part("shard", work(), dp_shard=8, zero=0) == 0.0


def test_replicas_sum_all_gradients_once_a_step() -> None:
    bare = work(device=NO_MATHS)
    expected = 2 * 7 / 8 * 4 * MODEL.parameters / BANDWIDTH
    for count in (1, 4):
        seconds = part("replicate", bare, dp_replicate=8, accumulation=count)
        assert seconds == pytest.approx(expected, rel=1e-3)


def test_replicas_of_shards_sum_their_shard_only() -> None:
    bare = work(device=NO_MATHS)
    whole = part("replicate", bare, dp_replicate=2)
    assert part("replicate", bare, dp_replicate=2, dp_shard=4) == pytest.approx(whole / 4, rel=0.01)


def test_gradients_in_two_bytes_take_half_the_time_to_sum() -> None:
    halved = replace(UNFUSED, gradient=2.0)
    whole = part("replicate", work(device=NO_MATHS), dp_replicate=8)
    half = part("replicate", work(runtime=halved, device=NO_MATHS), dp_replicate=8)
    assert half == pytest.approx(whole / 2, rel=1e-3)


def test_adapters_have_few_gradients_to_sum() -> None:
    bare = work(device=NO_MATHS)
    adapted = work(device=NO_MATHS, method=Method(kind="lora", rank=1))
    assert part("replicate", adapted, dp_replicate=8) < 0.1 * part(
        "replicate", bare, dp_replicate=8
    )


@pytest.mark.parametrize("pp", [2, 4, 8])
@pytest.mark.parametrize("accumulation", [8, 32])
def test_the_bubble_is_the_extra_stages_over_the_micro_batches(pp: int, accumulation: int) -> None:
    no_head = replace(WIDE, vocab=1)
    parts = step_time(work(no_head), layout(pp=pp, accumulation=accumulation))
    busy = parts.compute + parts.pipeline
    assert parts.bubble / busy == pytest.approx((pp - 1) / accumulation, rel=0.01)


def test_two_chunks_a_rank_halve_the_bubble() -> None:
    shape: dict[str, Any] = {"pp": 4, "accumulation": 8}
    no_head = work(replace(WIDE, vocab=1), device=replace(DEVICE, link=1e30, network=1e30))
    plain = part("bubble", no_head, **shape)
    halved = part("bubble", no_head, **shape, schedule="Interleaved1F1B", virtual_stages=2)
    assert halved == pytest.approx(plain / 2, rel=0.01)


def test_a_zero_bubble_schedule_idles_less_than_interleaving_but_not_never() -> None:
    found = {
        schedule: part(
            "bubble", work(WIDE), pp=4, accumulation=8, schedule=schedule, virtual_stages=2
        )
        for schedule in ("Interleaved1F1B", "ZBVZeroBubble")
    }
    assert 0 < found["ZBVZeroBubble"] < found["Interleaved1F1B"]


def test_a_device_map_runs_one_device_at_a_time() -> None:
    parts = step_time(work(WIDE), layout(pp=4, schedule="naive"))
    assert parts.bubble == pytest.approx(3 * (parts.compute + parts.pipeline))


@pytest.mark.parametrize(("accumulation", "virtual"), [(4, 1), (8, 1), (8, 2)])
def test_stages_hand_over_activations_and_gradients_of_every_micro_batch(
    accumulation: int, virtual: int
) -> None:
    seconds = part("pipeline", work(), pp=2, accumulation=accumulation, virtual_stages=virtual)
    once = 2 * 1000 * 100 / BANDWIDTH
    assert seconds == pytest.approx(accumulation * 2 * virtual * once)


def test_a_stage_with_the_vocabulary_head_may_be_the_slowest() -> None:
    heavy_head = replace(MODEL, vocab=1_000_000)
    one, two = (part("compute", work(heavy_head), pp=pp, accumulation=8) for pp in (1, 2))
    assert 0.9 * one < two < one


@pytest.mark.parametrize(
    "shape",
    [
        {"dp_shard": 8},
        {"dp_shard": 16},
        {"dp_replicate": 16},
        {"tp": 4, "dp_shard": 2},
        {"tp": 2, "pp": 4, "accumulation": 8},
        {"cp": 2, "dp_shard": 4},
        {"dp_replicate": 2, "dp_shard": 4, "tp": 2, "pp": 2, "accumulation": 4},
    ],
)
@pytest.mark.parametrize("faster", ["link", "network"])
def test_faster_links_never_slow_a_layout(shape: dict[str, int], faster: str) -> None:
    better = replace(DEVICE, **{faster: 3 * getattr(DEVICE, faster)})
    after = step_time(work(WIDE, device=better), layout(**shape)).total
    assert after <= step_time(work(WIDE), layout(**shape)).total


@pytest.mark.parametrize("shape", [{"dp_shard": 8}, {"tp": 4}, {"pp": 4, "accumulation": 8}])
def test_slower_communication_shows_in_the_step(shape: dict[str, int]) -> None:
    slow = replace(DEVICE, link=DEVICE.link / 1000)
    after = step_time(work(WIDE, device=slow), layout(**shape)).total
    assert after > 2 * step_time(work(WIDE), layout(**shape)).total
