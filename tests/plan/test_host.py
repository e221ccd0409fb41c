"""What an offloaded optimizer takes of a node's own memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planning import MODEL, layout, work
from planning.drawn import models
from qwenft_plan.hardware import CPU, GIB
from qwenft_plan.host import host_bytes, pod_host_bytes
from qwenft_plan.memory import CPU_PROCESS
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import Plan
from qwenft_plan.runtimes import OWN
from qwenft_plan.workload import Method

OFFLOADED = Method(offload_optimizer=True)
SEVEN = ModelShape.known("Qwen/Qwen1.5-7B")


def rank(model: ModelShape, shards: int = 1) -> float:
    question = work(model, OWN, method=OFFLOADED)
    return host_bytes(question, layout(dp_shard=shards)) - CPU_PROCESS


def plan_of(shards: int, *, offload: bool = True) -> Plan:
    return Plan(
        world_size=8, nodes=1, processes_per_node=8, pp=1, dp_replicate=8 // shards,
        dp_shard=shards, tp=1, micro_batch_size=1, gradient_accumulation_steps=1,
        global_batch_size=8, sequence_length=64, offload_optimizer=offload,
    )  # fmt: skip


def test_sizes_that_are_powers_of_two_take_sixteen_bytes_a_parameter() -> None:
    model = replace(MODEL, hidden=1024, heads=8, kv_heads=8, head_dim=128, ffn=2048, vocab=4096)
    assert rank(model) == pytest.approx(16 * model.parameters, rel=1e-3)


def test_pinned_weights_and_gradients_are_rounded_up_and_moments_are_not() -> None:
    # 172 MiB of a feed-forward matrix become 256, 2.3 GiB of a vocabulary become 4.
    assert rank(SEVEN) / GIB == pytest.approx(2 * 40 + 8 * SEVEN.parameters / GIB, rel=0.01)
    assert 1.15 < rank(SEVEN) / (16 * SEVEN.parameters) < 1.25


@given(model=models(), shards=st.sampled_from((1, 2, 8, 64)))
def test_a_rank_takes_sixteen_to_twenty_four_bytes_of_its_shard(
    model: ModelShape, shards: int
) -> None:
    least = 16 * (model.parameters - model.layers * 10 * model.hidden) / shards
    # Rows that ranks cannot share evenly are padded.
    padded = 16 * model.layers * 7 * max(model.hidden, model.ffn, model.attention_width)
    assert 0.9 * least <= rank(model, shards)
    assert rank(model, shards) <= 24 * model.parameters / shards + padded + 32 * model.hidden


def test_a_pod_takes_what_its_ranks_take() -> None:
    question = work(SEVEN, OWN, method=OFFLOADED)
    assert pod_host_bytes(plan_of(4), SEVEN) == 8 * host_bytes(question, layout(dp_shard=4))


def test_nothing_is_taken_where_nothing_is_offloaded() -> None:
    assert pod_host_bytes(plan_of(4, offload=False), SEVEN) == 0.0
    assert host_bytes(work(SEVEN, OWN), layout()) == 0.0
    on_cpu = work(SEVEN, OWN, method=OFFLOADED, device=CPU)
    assert host_bytes(on_cpu, layout()) == 0.0
