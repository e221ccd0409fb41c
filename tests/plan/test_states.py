"""Bytes of weights, gradients and optimizer, by method, precision and what is sharded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planning import FUSED, MEGATRON_LIKE, MODEL, UNFUSED, layout, work
from qwenft_plan.hardware import CPU
from qwenft_plan.model import ModelShape
from qwenft_plan.runtimes import OWN, Runtime
from qwenft_plan.sections import MATRICES
from qwenft_plan.states import BF16_PURE, adapter_parameters, moment_block, states
from qwenft_plan.workload import Layout, Method

BLOCKS, VOCABULARY = 3e6, 1e6
HF = replace(FUSED, name="hf", sharded=False, optimizer=12.0)

# Rows and columns of the seven adapted matrices of the round model, added up.
ADAPTER_SUMS = [
    (("q_proj",), 100 + 100),
    (("q_proj", "k_proj", "v_proj"), 200 + 2 * (100 + 50)),
    (("q_proj", "k_proj", "v_proj", "o_proj"), 200 + 300 + 200),
    (("down_proj",), 200 + 100),
    (MATRICES, 700 + 3 * (100 + 200)),
]


def per_parameter(
    runtime: Runtime = UNFUSED,
    *,
    precision: str = "bf16_mixed",
    method: Method | None = None,
    shape: Layout | None = None,
) -> tuple[float, float, float]:
    """Return (weights, gradients, optimizer) in bytes a parameter of the rank's stage."""
    question = work(runtime=runtime, precision=precision, method=method or Method())
    found = states(question, shape or layout(), BLOCKS, VOCABULARY)
    weights, gradients, optimizer = (value / (BLOCKS + VOCABULARY) for value in found)
    return weights, gradients, optimizer


@pytest.mark.parametrize(
    ("runtime", "precision", "expected"),
    [
        (UNFUSED, "bf16_mixed", (4, 4, 8)),  # FSDP2: fp32 shards, 16 together
        (UNFUSED, "fp8", (4, 4, 8)),
        (UNFUSED, "fp32", (4, 4, 8)),
        (UNFUSED, BF16_PURE, (2, 2, 4)),  # pure bf16 AdamW: 8 together
        (MEGATRON_LIKE, "bf16_mixed", (2, 4, 12)),  # Megatron: 18 together
        (MEGATRON_LIKE, BF16_PURE, (2, 2, 4)),
        (MEGATRON_LIKE, "fp32", (4, 4, 8)),
    ],
)
def test_a_precision_costs_its_known_bytes_a_parameter(
    runtime: Runtime, precision: str, expected: tuple[float, float, float]
) -> None:
    assert per_parameter(runtime, precision=precision) == expected


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_full_sharding_divides_sixteen_bytes_by_its_ranks(ranks: int) -> None:
    assert sum(per_parameter(shape=layout(dp_shard=ranks))) == pytest.approx(16 / ranks)


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_a_distributed_optimizer_costs_six_and_twelve_by_its_ranks(ranks: int) -> None:
    found = per_parameter(MEGATRON_LIKE, shape=layout(dp_shard=ranks, zero=1))
    assert sum(found) == pytest.approx(6 + 12 / ranks)


@pytest.mark.parametrize(
    ("zero", "expected"),
    [(0, (4, 4, 8)), (1, (4, 4, 1)), (2, (4, 0.5, 1)), (3, (0.5, 0.5, 1))],
)
def test_each_level_of_sharding_shares_one_thing_more(
    zero: int, expected: tuple[float, float, float]
) -> None:
    assert per_parameter(shape=layout(dp_shard=8, zero=zero)) == expected


def test_replicas_share_nothing() -> None:
    assert per_parameter(shape=layout(dp_replicate=8)) == per_parameter()


def test_context_parallel_ranks_share_like_data_parallel_ones() -> None:
    assert per_parameter(shape=layout(dp_shard=2, cp=4)) == per_parameter(shape=layout(dp_shard=8))


@pytest.mark.parametrize(
    ("runtime", "precision", "expected"),
    [
        (UNFUSED, "bf16_mixed", (4, 4, 2)),
        (MEGATRON_LIKE, "bf16_mixed", (2, 4, 6)),  # the fp32 master weights stay
        (UNFUSED, BF16_PURE, (2, 2, 2)),
    ],
)
def test_an_eight_bit_optimizer_keeps_two_bytes_and_little_more(
    runtime: Runtime, precision: str, expected: tuple[float, float, float]
) -> None:
    found = per_parameter(runtime, precision=precision, method=Method(optimizer="adamw8bit"))
    assert found == pytest.approx(expected, rel=0.05)
    assert found[2] > expected[2]


@pytest.mark.parametrize("runtime", [UNFUSED, MEGATRON_LIKE], ids=["fsdp", "megatron"])
def test_an_offloaded_optimizer_leaves_nothing_on_the_device(runtime: Runtime) -> None:
    found = per_parameter(runtime, method=Method(offload_optimizer=True))
    assert found[:2] == per_parameter(runtime)[:2]
    assert found[2] == 0.0


@pytest.mark.parametrize(("adapted", "total"), ADAPTER_SUMS)
def test_adapters_have_their_rank_times_rows_and_columns_of_each_matrix(
    adapted: tuple[str, ...], total: int
) -> None:
    method = Method(kind="lora", rank=16, adapted=adapted)
    assert adapter_parameters(work(method=method)) == 16 * total * 4


def test_adapters_of_a_block_without_a_gate_are_two_in_its_feed_forward_part() -> None:
    plain = replace(MODEL, gated=False)
    method = Method(kind="lora", rank=1, adapted=MATRICES)
    assert adapter_parameters(work(plain, method=method)) == (700 + 2 * 300) * 4


def test_lora_of_rank_8_over_qwen1_5_7b_trains_a_quarter_of_a_percent() -> None:
    model = ModelShape.known("Qwen/Qwen1.5-7B")
    share = adapter_parameters(work(model, method=Method(kind="lora"))) / model.parameters
    assert 0.002 < share < 0.003


@pytest.mark.parametrize("rank", [8, 64])
def test_lora_costs_two_bytes_a_frozen_and_sixteen_a_trained_parameter(rank: int) -> None:
    question = work(method=Method(kind="lora", rank=rank))
    found = sum(states(question, layout(), BLOCKS, VOCABULARY))
    expected = 2 * (BLOCKS + VOCABULARY) + 16 * adapter_parameters(question)
    assert found == pytest.approx(expected)


def test_qlora_stores_blocks_in_about_four_bits_and_the_vocabulary_whole() -> None:
    question = work(method=Method(kind="qlora"))
    weights, gradients, optimizer = states(question, layout(), BLOCKS, VOCABULARY)
    trained = adapter_parameters(question)
    in_blocks = (weights - 4 * trained - 2 * VOCABULARY) / BLOCKS
    assert 0.5 < in_blocks < 0.6
    assert (gradients, optimizer) == (4 * trained, 8 * trained)


def test_lora_of_an_fp32_run_keeps_frozen_weights_in_fp32() -> None:
    question = work(method=Method(kind="lora"), precision="fp32")
    weights, _, _ = states(question, layout(), BLOCKS, VOCABULARY)
    assert weights == 4 * (BLOCKS + VOCABULARY) + 4 * adapter_parameters(question)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
@pytest.mark.parametrize("ranks", [2, 8])
def test_frozen_weights_are_sharded_like_trained_ones(kind: str, ranks: int) -> None:
    question = work(method=Method(kind=kind))
    whole = states(question, layout(), BLOCKS, VOCABULARY)
    shared = states(question, layout(dp_shard=ranks), BLOCKS, VOCABULARY)
    assert shared == pytest.approx(tuple(value / ranks for value in whole))


@pytest.mark.parametrize(("changes", "share"), [({"tp": 4}, 4), ({"pp": 2}, 2)])
def test_adapters_are_split_with_the_model(changes: dict[str, int], share: int) -> None:
    question = work(method=Method(kind="lora"))
    whole = states(question, layout(), BLOCKS, VOCABULARY)
    split = states(question, layout(**changes), BLOCKS, VOCABULARY)
    assert split[1:] == tuple(value / share for value in whole[1:])


@pytest.mark.parametrize(
    ("method", "cheaper"),
    [
        (Method(), Method(optimizer="adamw8bit")),
        (Method(optimizer="adamw8bit"), Method(kind="lora")),
        (Method(kind="lora"), Method(kind="qlora")),
        (Method(), Method(offload_optimizer=True)),
        (Method(kind="lora"), Method(kind="lora", optimizer="adamw8bit")),
        (Method(kind="lora", rank=64), Method(kind="lora", rank=8)),
        (Method(kind="lora"), Method(kind="lora", offload_optimizer=True)),
    ],
)
@pytest.mark.parametrize("runtime", [UNFUSED, MEGATRON_LIKE, HF], ids=lambda found: found.name)
def test_each_way_to_save_memory_saves_memory(
    runtime: Runtime, method: Method, cheaper: Method
) -> None:
    assert sum(per_parameter(runtime, method=cheaper)) < sum(per_parameter(runtime, method=method))


@pytest.mark.parametrize(
    ("columns", "block"),
    [(4096, 256), (11008, 32), (896, 16), (5120, 128), (128, 16), (64, 0), (8, 0), (100, 0)],
)
def test_moments_share_a_scale_that_no_tensor_split_tears(columns: int, block: int) -> None:
    assert moment_block(columns) == block
    assert not block or all(columns // ranks % block == 0 for ranks in (1, 2, 4, 8))


def test_the_own_trainer_keeps_nothing_on_the_device_when_the_host_keeps_it() -> None:
    method = Method(offload_optimizer=True)
    assert per_parameter(OWN, method=method) == (0, 0, 0)
    on_cpu = work(runtime=OWN, device=CPU, method=method)
    assert sum(states(on_cpu, layout(), BLOCKS, VOCABULARY)) == 16 * (BLOCKS + VOCABULARY)
