"""The peak of the fullest rank is the higher of two summits, and each part can be added up."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from planning import MEGATRON_LIKE, MODEL, UNFUSED, layout, work
from qwenft_plan.hardware import GIB, cpu_device
from qwenft_plan.memory import (
    SAFETY,
    MemoryParts,
    peak_memory,
    stage_layers,
    stage_parameters,
    vocabulary_parameters,
)
from qwenft_plan.model import ModelShape
from qwenft_plan.states import BF16_PURE
from qwenft_plan.workload import Method

BLOCK, VOCABULARY, NORM = 90_200, 100_000, 100
ALL = 4 * BLOCK + 2 * VOCABULARY + NORM
KEPT = 16 * 100 + 4 * 150 + 4 * 4 + 8 * 200  # bytes of a block and token


def test_the_round_model_has_the_parameters_that_the_sums_here_use() -> None:
    assert (MODEL.layer_parameters, MODEL.embedding_parameters) == (BLOCK, VOCABULARY)
    assert MODEL.parameters == ALL


@pytest.mark.parametrize(("pp", "expected"), [(1, 4), (2, 2), (3, 2), (4, 1), (8, 1)])
def test_the_largest_stage_has_its_share_of_blocks_rounded_up(pp: int, expected: int) -> None:
    assert stage_layers(work(), layout(pp=pp)) == expected


def test_a_device_map_leaves_one_device_more_than_its_share() -> None:
    model = replace(MODEL, layers=32)
    assert stage_layers(work(model), layout(pp=2, schedule="naive")) == 16
    deeper = replace(MODEL, layers=80)
    assert stage_layers(work(deeper), layout(pp=2, schedule="naive")) == 41


@pytest.mark.parametrize(
    ("pp", "stage", "expected"),
    [
        (1, 0, 2 * VOCABULARY + NORM),
        (2, 0, VOCABULARY),
        (2, 1, VOCABULARY + NORM),
        (4, 1, 0),
        (4, 2, 0),
        (4, 3, VOCABULARY + NORM),
    ],
)
def test_the_first_stage_has_the_input_and_the_last_the_output_vocabulary(
    pp: int, stage: int, expected: int
) -> None:
    assert vocabulary_parameters(work(), layout(pp=pp), stage) == expected


def test_a_tied_vocabulary_is_held_once_on_one_stage() -> None:
    tied = work(replace(MODEL, tied=True))
    assert vocabulary_parameters(tied, layout(), 0) == VOCABULARY + NORM


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("pp", [1, 2, 4])
def test_the_stages_of_a_tensor_rank_add_up_to_its_share_of_the_model(tp: int, pp: int) -> None:
    shape = layout(tp=tp, pp=pp)
    total = sum(stage_parameters(work(), shape, stage) for stage in range(pp))
    assert total == pytest.approx(ALL / tp)


def test_one_step_without_accumulation_peaks_at_the_loss_without_gradients() -> None:
    parts = peak_memory(work(), layout())
    assert parts.weights == 4 * ALL
    assert parts.optimizer == 8 * ALL
    assert parts.gradients == 0.0
    assert 4 * KEPT <= parts.activations / 1000 <= 5 * KEPT
    assert parts.logits == 14 * 1000 * 1000


def test_accumulated_gradients_are_there_when_the_loss_is_computed() -> None:
    parts = peak_memory(work(), layout(accumulation=2))
    assert (parts.gradients, parts.logits) == (4 * ALL, 14 * 1000 * 1000)


def test_a_gradient_buffer_that_is_never_freed_is_always_there() -> None:
    parts = peak_memory(work(runtime=MEGATRON_LIKE), layout(zero=1))
    assert parts.gradients == 4 * ALL
    assert parts.logits > 0


def test_a_short_sequence_peaks_at_the_end_of_the_step_with_all_gradients() -> None:
    parts = peak_memory(work(sequence_length=8), layout())
    assert (parts.gradients, parts.logits) == (4 * ALL, 0.0)


@pytest.mark.parametrize("length", [8, 64, 256, 1000, 8000])
def test_the_peak_is_at_least_every_summit_and_at_most_everything_together(length: int) -> None:
    total = peak_memory(work(sequence_length=length), layout()).total
    at_loss = 12 * ALL + length * (4 * KEPT + 14 * 1000)
    at_end = 16 * ALL
    assert max(at_loss, at_end) <= total
    assert total < 16 * ALL + length * (6 * KEPT + 14 * 1000) + 2 * ALL
    assert total < 1.3 * max(at_loss, at_end)


def test_the_parts_add_up_to_the_total() -> None:
    parts = peak_memory(work(runtime=replace(UNFUSED, allocator=1.05)), layout())
    total = sum(getattr(parts, field.name) for field in fields(MemoryParts))
    assert parts.total == pytest.approx(total)
    assert parts.allocated == pytest.approx(parts.total - parts.overhead)


def test_overhead_is_allocator_slack_and_a_context() -> None:
    runtime = replace(UNFUSED, allocator=1.1, overhead=5e6)
    parts = peak_memory(work(runtime=runtime), layout())
    assert parts.overhead == pytest.approx(0.1 * parts.allocated + 5e6)


@pytest.mark.parametrize("ranks", [2, 8])
def test_sharded_gradients_keep_a_pool_that_activations_cannot_use(ranks: int) -> None:
    sharded = layout(dp_shard=ranks)
    parts = peak_memory(work(), sharded)
    assert parts.gradients == 0.0
    assert parts.overhead == pytest.approx(4 * ALL / ranks)
    gathered_whole = peak_memory(work(), layout(dp_shard=ranks, zero=2))
    assert gathered_whole.overhead == 0.0


def test_gradients_that_are_there_already_are_not_counted_twice() -> None:
    parts = peak_memory(work(), layout(dp_shard=2, accumulation=2))
    assert (parts.gradients, parts.overhead) == (4 * ALL / 2, 0.0)


def test_a_cpu_has_no_streams_and_so_no_pools() -> None:
    on_cpu = work(device=cpu_device(cpus=1))
    whole, sharded = (peak_memory(on_cpu, layout(dp_shard=n)).overhead for n in (1, 8))
    assert whole == sharded


def test_a_cpu_process_holds_the_framework_and_no_context_of_an_accelerator() -> None:
    runtime = replace(UNFUSED, overhead=5e9)
    parts = peak_memory(work(runtime=runtime, device=cpu_device(cpus=1)), layout())
    assert 0.4 <= parts.overhead / GIB <= 1.0


def test_an_expensive_loss_makes_the_last_stage_the_fullest() -> None:
    parts = peak_memory(work(replace(MODEL, vocab=100_000)), layout(pp=4, accumulation=8))
    assert parts.logits == 14 * 1000 * 100_000


def test_a_cheap_loss_makes_the_first_stage_the_fullest() -> None:
    cheap_loss = work(runtime=replace(UNFUSED, logit=0.001))
    assert peak_memory(cheap_loss, layout(pp=4, accumulation=8)).logits == 0.0


def test_a_pipeline_holds_the_activations_of_the_micro_batches_in_flight() -> None:
    cheap_loss = work(runtime=replace(UNFUSED, logit=0.001))
    parts = peak_memory(cheap_loss, layout(pp=4, accumulation=8))
    assert 4 * KEPT <= parts.activations / 1000 < 6 * KEPT


def test_unsharded_ranks_buffer_one_block_s_weight_gradients() -> None:
    assert peak_memory(work(), layout()).buffers == 2 * BLOCK
    assert peak_memory(work(), layout(tp=2)).buffers == BLOCK


def test_sharded_ranks_buffer_the_blocks_that_are_gathered() -> None:
    few_words = replace(MODEL, vocab=10)
    more, fewer = (
        peak_memory(
            work(few_words, replace(UNFUSED, gathered_blocks=blocks)), layout(dp_shard=8)
        ).buffers
        for blocks in (3.0, 1.0)
    )
    assert fewer >= 2 * few_words.layer_parameters
    assert more - fewer >= 2 * 2 * few_words.layer_parameters


@pytest.mark.parametrize("dp_shard", [1, 8])
def test_a_runtime_that_always_computes_on_a_copy_needs_it_without_sharding_too(
    dp_shard: int,
) -> None:
    wrapping = work(runtime=replace(UNFUSED, always_wraps=True))
    more, less = (
        peak_memory(question, layout(dp_shard=dp_shard)).buffers for question in (wrapping, work())
    )
    assert (more > less) == (dp_shard == 1)


def test_a_large_vocabulary_is_gathered_too() -> None:
    many_words = work(replace(MODEL, vocab=50_000))
    buffers = peak_memory(many_words, layout(dp_shard=8)).buffers
    assert buffers >= 2 * many_words.model.embedding_parameters


def test_a_sharded_stage_of_a_pipeline_stays_gathered_for_all_its_micro_batches() -> None:
    stage = layout(pp=2, dp_shard=8, accumulation=4)
    least = min(stage_parameters(work(), stage, index) for index in (0, 1))
    assert peak_memory(work(), stage).buffers >= 2 * least


@pytest.mark.parametrize("accumulation", [1, 4])
def test_weights_that_stay_gathered_are_all_there_at_the_loss(accumulation: int) -> None:
    freed = layout(dp_shard=8, accumulation=accumulation)
    kept = replace(freed, reshard_after_forward=False)
    less, more = (peak_memory(work(), each) for each in (freed, kept))
    assert less.logits > 0.0
    assert more.logits > 0.0
    assert more.buffers >= 2 * ALL
    assert more.total > less.total


def test_gradients_wait_unreduced_for_the_last_micro_batch_where_weights_stay() -> None:
    kept = layout(dp_shard=8, reshard_after_forward=False)
    for count in (1, 2):  # the feed may make two micro-batches of one
        piled = peak_memory(work(), replace(kept, accumulation=count))
        assert piled.buffers == 2 * ALL + 4 * ALL


@pytest.mark.parametrize(
    ("runtime", "gibibytes"), [(UNFUSED, 57.5), (replace(UNFUSED, step_temporary=2.0), 71.9)]
)
def test_pure_bf16_qwen_7b_needs_eight_bytes_and_two_more_for_foreach_kernels(
    runtime: object, gibibytes: float
) -> None:
    question = work(
        ModelShape.known("Qwen/Qwen1.5-7B"),
        replace(runtime, sharded=False),  # type: ignore[type-var]
        precision=BF16_PURE,
        sequence_length=2,
    )
    total = peak_memory(question, layout(zero=0)).total / GIB
    assert total == pytest.approx(gibibytes, rel=0.01)


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"micro_batch": 2}, True),
        ({"accumulation": 4}, True),
        ({"checkpointing": "full"}, False),
        ({"checkpointing": "selective"}, False),
        ({"tp": 2}, False),
        ({"cp": 2}, False),
        ({"pp": 2}, False),
    ],
)
def test_a_change_of_the_layout_moves_the_peak_the_way_it_should(
    change: dict[str, object], *, more: bool
) -> None:
    question = work(ModelShape.known("Qwen/Qwen1.5-7B"), sequence_length=8192)
    before, after = (peak_memory(question, layout(**each)).total for each in ({}, change))
    assert (after > before, after < before) == (more, not more)


@pytest.mark.parametrize("ranks", [2, 4, 8, 16, 64])
def test_twice_the_shards_never_need_more(ranks: int) -> None:
    question = work(ModelShape.known("Qwen/Qwen1.5-7B"))
    more = peak_memory(question, layout(dp_shard=ranks)).total
    assert peak_memory(question, layout(dp_shard=2 * ranks)).total < more


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_adapters_fit_where_full_training_does_not(kind: str) -> None:
    model, budget = ModelShape.known("Qwen/Qwen1.5-7B"), 36 * GIB
    runtime = replace(UNFUSED, logit=2.0)
    shape = layout(checkpointing="full")
    whole = peak_memory(work(model, runtime), shape).total
    adapted = peak_memory(work(model, runtime, method=Method(kind=kind)), shape).total
    assert adapted < budget < whole


def test_the_safety_margin_leaves_room_but_not_a_fifth() -> None:
    assert 0.80 <= SAFETY < 1.0
