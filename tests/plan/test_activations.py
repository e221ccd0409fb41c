"""Bytes that autograd keeps agree with what was measured on real modules, and with sums by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planning import FUSED, MODEL, UNFUSED, layout, work
from qwenft_plan.activations import (
    in_flight,
    logit_bytes,
    recompute_peak,
    saved_bytes,
    tokens,
    whole_block,
)
from qwenft_plan.model import ModelShape
from qwenft_plan.runtimes import Runtime
from qwenft_plan.workload import Method

# Whole model, MB per token: measured with saved-tensor hooks (HF modules) or by fused kernels.
PER_TOKEN = [
    ("Qwen/Qwen1.5-7B", 5.97, 4.21, 0.262),
    ("Qwen/Qwen2.5-7B", 6.31, 4.45, 0.201),
    ("Qwen/Qwen1.5-72B", 31.5, 22.3, 1.31),
]

# The round model's block, for one token, by hand.
UNFUSED_BLOCK = 16 * 100 + 4 * (100 + 50) + 4 * 4 + 8 * 200
FUSED_BLOCK = 8 * 100 + 4 * (100 + 50) + 4 * 4 + 6 * 200


@pytest.mark.parametrize(("name", "unfused", "fused", "full"), PER_TOKEN)
def test_a_whole_model_keeps_the_measured_bytes_a_token(
    name: str, unfused: float, fused: float, full: float
) -> None:
    model = ModelShape.known(name)

    def kept(runtime: Runtime, checkpointing: str) -> float:
        each = saved_bytes(work(model, runtime), layout(checkpointing=checkpointing))
        return model.layers * each / 1e6

    assert kept(UNFUSED, "none") == pytest.approx(unfused, rel=0.005)
    assert kept(FUSED, "none") == pytest.approx(fused, rel=0.005)
    assert kept(UNFUSED, "full") == pytest.approx(full, rel=0.005)


@pytest.mark.parametrize(
    ("runtime", "expected"), [(UNFUSED, UNFUSED_BLOCK), (FUSED, FUSED_BLOCK)], ids=["hf", "fused"]
)
def test_a_block_keeps_its_norms_attention_and_gate(runtime: Runtime, expected: float) -> None:
    assert whole_block(work(runtime=runtime), layout()) == expected


NORMED = replace(MODEL, qk_norm=True)


@pytest.mark.parametrize(
    ("changes", "bytes_a_column"),
    [
        ({}, 6.0),
        ({"compiled": True}, 2.0),
        ({"precision": "fp32"}, 7.5),
        ({"method": Method(kind="lora", adapted=("q_proj",))}, 4.0),
        ({"runtime": FUSED}, 3.0),
    ],
    ids=["unfused", "compiled", "fp32", "frozen", "fused"],
)
def test_norms_of_queries_and_keys_keep_their_inputs(
    changes: dict[str, Any], bytes_a_column: float
) -> None:
    plain, normed = (whole_block(work(model, **changes), layout()) for model in (MODEL, NORMED))
    columns = MODEL.attention_width + MODEL.kv_width
    assert normed - plain == pytest.approx(bytes_a_column * columns)


def adapted(*names: str) -> Method:
    return Method(kind="lora", rank=8, adapted=names)


@pytest.mark.parametrize(
    ("names", "spared"),
    [
        (("q_proj", "gate_proj", "down_proj"), 4 * 100),
        (("q_proj", "up_proj"), 4 * 100 + 2 * 200),
        (("q_proj", "v_proj"), 6 * 100 + 2 * 200),
    ],
    ids=["all inputs but the norms'", "not that of down", "attention's alone"],
)
def test_frozen_weights_keep_no_input_of_their_own(names: tuple[str, ...], spared: int) -> None:
    kept = whole_block(work(method=adapted(*names)), layout())
    assert kept == UNFUSED_BLOCK - spared


def test_selective_checkpointing_keeps_what_adapters_put_out() -> None:
    own = replace(UNFUSED, selective="products")
    plan = layout(checkpointing="selective")
    few = saved_bytes(work(runtime=own, method=adapted("q_proj")), plan)
    more = saved_bytes(work(runtime=own, method=adapted("q_proj", "o_proj")), plan)
    assert more - few == 2 * (100 + 8)


def test_a_block_without_a_gate_keeps_what_a_plain_one_keeps() -> None:
    plain = replace(MODEL, gated=False)
    assert whole_block(work(plain), layout()) == 1600 + 600 + 16 + 4 * 200


def test_attention_without_a_flash_kernel_keeps_its_scores() -> None:
    scores = whole_block(work(flash_attention=False), layout()) - UNFUSED_BLOCK
    assert scores == 6 * 4 * 1000


def test_asking_for_flash_attention_wins_over_the_runtime_s_default() -> None:
    eager = replace(UNFUSED, flash=False)
    assert whole_block(work(runtime=eager, flash_attention=True), layout()) == UNFUSED_BLOCK
    assert whole_block(work(runtime=eager), layout()) > UNFUSED_BLOCK


@pytest.mark.parametrize("tp", [2, 4])
def test_tensor_and_sequence_parallelism_divide_everything(tp: int) -> None:
    assert whole_block(work(), layout(tp=tp)) == pytest.approx(UNFUSED_BLOCK / tp)


def test_without_sequence_parallelism_norms_stay_whole_on_every_rank() -> None:
    whole_norms = replace(UNFUSED, sequence_parallel=False)
    kept = whole_block(work(runtime=whole_norms), layout(tp=2))
    assert kept == 1600 + (UNFUSED_BLOCK - 1600) / 2


def test_keeping_gathered_inputs_costs_two_copies_of_what_other_ranks_hold() -> None:
    keeping = replace(UNFUSED, keeps_gathered=True)
    assert whole_block(work(runtime=keeping), layout(tp=1)) == UNFUSED_BLOCK
    assert whole_block(work(runtime=keeping), layout(tp=4)) == UNFUSED_BLOCK / 4 + 4 * 100 * 3 / 4


def test_fp32_keeps_more_than_bf16_but_needs_no_copies_in_another_width() -> None:
    kept = whole_block(work(precision="fp32"), layout())
    assert 1.5 * UNFUSED_BLOCK < kept <= 2 * UNFUSED_BLOCK


def test_a_compiled_block_keeps_less_but_not_nothing() -> None:
    kept = whole_block(work(compiled=True), layout())
    assert 0.4 * UNFUSED_BLOCK < kept < UNFUSED_BLOCK


def test_full_checkpointing_keeps_one_bf16_boundary_of_each_block() -> None:
    assert saved_bytes(work(), layout(checkpointing="full")) == 2 * 100
    assert saved_bytes(work(), layout(checkpointing="full", tp=2)) == 100
    assert saved_bytes(work(precision="fp32"), layout(checkpointing="full")) == 4 * 100


@pytest.mark.parametrize("kind", ["products", "half", "attention"])
@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("name", ["Qwen/Qwen1.5-7B", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-32B"])
def test_selective_checkpointing_lies_between_full_and_none(kind: str, tp: int, name: str) -> None:
    question = work(ModelShape.known(name), replace(UNFUSED, selective=kind))
    full, selective, none = (
        saved_bytes(question, layout(checkpointing=mode, tp=tp))
        for mode in ("full", "selective", "none")
    )
    assert full < selective <= none


def test_keeping_every_other_product_keeps_less_than_keeping_all() -> None:
    kept = {
        kind: saved_bytes(
            work(runtime=replace(UNFUSED, selective=kind)), layout(checkpointing="selective")
        )
        for kind in ("products", "half")
    }
    assert kept["half"] < kept["products"]


def test_recomputing_attention_alone_drops_its_scores_and_nothing_else() -> None:
    eager = work(runtime=replace(UNFUSED, selective="attention", flash=False))
    assert saved_bytes(eager, layout(checkpointing="selective")) == UNFUSED_BLOCK


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_the_block_in_backward_is_alive_besides_what_was_kept(mode: str) -> None:
    peak = recompute_peak(work(), layout(checkpointing=mode))
    assert 0 < peak <= 2 * UNFUSED_BLOCK


def test_a_recomputed_block_needs_more_than_one_that_was_kept() -> None:
    full = recompute_peak(work(), layout(checkpointing="full"))
    assert full > recompute_peak(work(), layout(checkpointing="none"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 1000), ({"micro_batch": 4}, 4000), ({"cp": 2}, 500), ({"micro_batch": 3, "cp": 4}, 750)],
)
def test_a_rank_handles_its_micro_batch_s_share_of_tokens(
    changes: dict[str, int], expected: float
) -> None:
    assert tokens(work(), layout(**changes)) == expected


@pytest.mark.parametrize(
    ("schedule", "pp", "stage", "accumulation", "virtual", "expected"),
    [
        ("1F1B", 1, 0, 8, 1, 1.0),
        ("1F1B", 4, 0, 8, 1, 4.0),
        ("1F1B", 4, 1, 8, 1, 3.0),
        ("1F1B", 4, 3, 8, 1, 1.0),
        ("1F1B", 4, 0, 2, 1, 2.0),
        ("GPipe", 4, 0, 8, 1, 8.0),
        ("GPipe", 4, 3, 8, 1, 8.0),
        ("GPipe", 1, 0, 8, 1, 1.0),
        ("Interleaved1F1B", 4, 0, 16, 2, 4 * (1 + 3 / (4 * 2))),
        ("Interleaved1F1B", 8, 0, 64, 2, 8 * (1 + 7 / (8 * 2))),
        ("Interleaved1F1B", 2, 0, 8, 4, 2 * (1 + 1 / (2 * 4))),
        ("Interleaved1F1B", 4, 0, 4, 2, 4.0),
        ("ZBVZeroBubble", 4, 0, 16, 2, 4.0),
        ("ZBVZeroBubble", 4, 0, 3, 2, 3.0),
        ("naive", 4, 0, 8, 1, 1.0),
    ],
)
def test_a_stage_holds_as_many_micro_batches_as_its_schedule_says(
    schedule: str, pp: int, stage: int, accumulation: int, virtual: int, expected: float
) -> None:
    shape = layout(pp=pp, accumulation=accumulation, virtual_stages=virtual, schedule=schedule)
    assert in_flight(shape, stage) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["1F1B", "Interleaved1F1B"])
@pytest.mark.parametrize("pp", [2, 4, 8])
def test_earlier_stages_never_hold_fewer_micro_batches(schedule: str, pp: int) -> None:
    shape = layout(pp=pp, accumulation=4 * pp, schedule=schedule, virtual_stages=2)
    held = [in_flight(shape, stage) for stage in range(pp)]
    assert held == sorted(held, reverse=True)


@pytest.mark.parametrize(("length", "gigabytes"), [(4096, 8.7), (8192, 17.4)])
def test_the_plain_loss_over_qwen_s_vocabulary_takes_the_measured_gigabytes(
    length: int, gigabytes: float
) -> None:
    question = work(ModelShape.known("Qwen/Qwen1.5-7B"), sequence_length=length)
    assert logit_bytes(question, layout()) / 1e9 == pytest.approx(gigabytes, rel=0.005)


def test_logits_are_eight_times_the_checkpointed_activations_of_qwen1_5_7b() -> None:
    model = ModelShape.known("Qwen/Qwen1.5-7B")
    checkpointed = model.layers * saved_bytes(work(model), layout(checkpointing="full")) * 1000
    assert logit_bytes(work(model), layout()) / checkpointed == pytest.approx(8.1, abs=0.1)


@pytest.mark.parametrize(
    ("runtime", "changes", "per_logit"),
    [
        (UNFUSED, {}, 14),
        (FUSED, {}, 6),
        (UNFUSED, {"fused_loss": True}, 2),
        (FUSED, {"fused_loss": True}, 2),
        (UNFUSED, {"fused_loss": False}, 14),
        (UNFUSED, {"precision": "fp32", "fused_loss": True}, 2),
    ],
)
def test_a_logit_costs_the_bytes_of_its_loss(
    runtime: Runtime, changes: dict[str, object], per_logit: int
) -> None:
    assert logit_bytes(work(runtime=runtime, **changes), layout()) == per_logit * 1000 * 1000


def test_a_logit_in_fp32_costs_its_value_its_probability_and_their_gradients_at_most() -> None:
    per_logit = logit_bytes(work(precision="fp32"), layout()) / 1000 / 1000
    assert 8 <= per_logit <= 16


CHUNKED = replace(UNFUSED, chunked_loss=True)


def test_a_loss_in_chunks_takes_far_less_than_whole_logits() -> None:
    model = ModelShape.known("Qwen/Qwen1.5-7B")
    question = work(model, CHUNKED, sequence_length=8192)
    whole = logit_bytes(work(model, sequence_length=8192), layout())
    assert 0 < logit_bytes(question, layout()) < 0.3 * whole


@pytest.mark.parametrize(
    ("changes", "shape"), [({"fused_loss": False}, {}), ({}, {"tp": 2}), ({}, {"tp": 4})]
)
def test_a_split_vocabulary_or_a_plain_loss_has_whole_logits(
    changes: dict[str, object], shape: dict[str, int]
) -> None:
    found = logit_bytes(work(runtime=CHUNKED, **changes), layout(**shape))
    assert found == logit_bytes(work(**changes), layout(**shape))


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"tp": 4}, 16 / 14 / 4),
        ({"cp": 2}, 1 / 2),
        ({"micro_batch": 3}, 3.0),
        ({"dp_shard": 8}, 1.0),
    ],
)
def test_logits_split_over_vocabulary_and_tokens_only(
    changes: dict[str, int], share: float
) -> None:
    assert logit_bytes(work(), layout(**changes)) == pytest.approx(14 * 1000 * 1000 * share)


def test_a_loss_over_a_split_vocabulary_has_a_price_of_its_own() -> None:
    runtime = replace(UNFUSED, logit=6.0, split_logit=20.0)
    whole, split = (logit_bytes(work(runtime=runtime), layout(tp=n)) for n in (1, 2))
    assert (whole, split) == (6 * 1000 * 1000, 20 * 1000 * 1000 / 2)
