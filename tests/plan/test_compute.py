"""Computation takes its FLOPs at the achievable rate plus its bytes through memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planning import DEVICE, MODEL, UNFUSED, layout, work
from qwenft_plan.compute import block_time, head_time, matmul_rate, optimizer_time
from qwenft_plan.hardware import CPU, Device
from qwenft_plan.workload import Method, Workload

# No byte takes time: what is left are the FLOPs.
FLOPS_ONLY = replace(DEVICE, hbm=1e30, attention=1e30)
RATE = 0.5e12  # the round device's rate times the round runtime's share
TOKENS = 1000


def flops_only(**changes: Any) -> Workload:
    return work(device=replace(FLOPS_ONLY, **changes.pop("device", {})), **changes)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("bf16_mixed", 0.5e12), ("bf16_pure", 0.5e12), ("fp8", 1e12), ("fp32", 0.5e11)],
)
def test_each_precision_multiplies_at_its_own_rate(precision: str, expected: float) -> None:
    assert matmul_rate(work(precision=precision)) == pytest.approx(expected)


def test_a_device_that_cannot_sustain_its_rate_is_slower() -> None:
    hot = work(device=replace(DEVICE, sustained=0.5))
    assert matmul_rate(hot) == pytest.approx(0.5 * matmul_rate(work()))


@pytest.mark.parametrize("share", [0.99, 1.0, 1.3])
def test_no_mix_of_kernels_reaches_the_best_rate_of_one(share: float) -> None:
    assert matmul_rate(work(runtime=replace(UNFUSED, matmul=share))) < DEVICE.matmul_bf16


def test_a_step_of_a_block_is_six_flops_a_parameter_and_token() -> None:
    seconds = block_time(flops_only(), layout()).device
    assert seconds == pytest.approx(6 * MODEL.layer_matrix_parameters * TOKENS / RATE)


def test_full_recomputation_adds_a_third_forward_pass() -> None:
    none, full = (
        block_time(flops_only(), layout(checkpointing=mode)).device for mode in ("none", "full")
    )
    assert full / none == pytest.approx(8 / 6)


def test_a_block_without_a_gate_has_two_matrices_in_its_feed_forward_part() -> None:
    plain = replace(MODEL, gated=False)
    seconds = block_time(flops_only(model=plain), layout()).device
    assert seconds == pytest.approx(6 * plain.layer_matrix_parameters * TOKENS / RATE)


def test_causal_attention_is_half_of_its_products_forward_and_two_and_a_half_times_backward() -> (
    None
):
    with_it = work(device=replace(DEVICE, hbm=1e30, matmul_bf16=1e30))
    forward = 4 * TOKENS * 1000 * MODEL.attention_width / 2 / DEVICE.attention
    assert block_time(with_it, layout()).device == pytest.approx(3.5 * forward, rel=1e-6)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_attention_grows_with_the_square_of_the_sequence(factor: int) -> None:
    device = replace(DEVICE, hbm=1e30, matmul_bf16=1e30)
    short = block_time(work(device=device), layout()).device
    long = block_time(work(device=device, sequence_length=factor * 1000), layout()).device
    assert long == pytest.approx(factor**2 * short, rel=1e-6)


def test_a_faster_runtime_for_attention_is_faster() -> None:
    quick = work(runtime=replace(UNFUSED, attention=2.0))
    assert block_time(quick, layout()).device < block_time(work(), layout()).device


def test_scores_that_are_written_to_memory_take_longer_than_flash_attention() -> None:
    eager = block_time(work(flash_attention=False), layout()).device
    assert eager > block_time(work(), layout()).device


@pytest.mark.parametrize("tp", [2, 4])
def test_tensor_parallelism_divides_the_flops(tp: int) -> None:
    whole = block_time(flops_only(), layout()).device
    assert block_time(flops_only(), layout(tp=tp)).device == pytest.approx(whole / tp)


@pytest.mark.parametrize("tp", [2, 4])
def test_narrow_matrices_lose_some_of_what_tensor_parallelism_gains(tp: int) -> None:
    whole = block_time(work(), layout()).device
    assert block_time(work(), layout(tp=tp)).device > whole / tp


@pytest.mark.parametrize("micro", [2, 4, 16])
def test_a_larger_micro_batch_takes_less_time_a_sample(micro: int) -> None:
    one = block_time(work(), layout()).device
    more = block_time(work(), layout(micro_batch=micro)).device
    assert one < more < micro * one


def test_elementwise_work_is_bytes_through_memory() -> None:
    quiet, busy = replace(UNFUSED, traffic=0.0), replace(UNFUSED, traffic=4.0)
    kept = 16 * 100 + 4 * 150 + 4 * 4 + 8 * 200
    extra = (
        block_time(work(runtime=busy), layout()).device
        - block_time(work(runtime=quiet), layout()).device
    )
    assert extra == pytest.approx(4.0 * kept * TOKENS / DEVICE.hbm)


@pytest.mark.parametrize("kind", ["products", "half", "attention"])
def test_selective_recomputation_takes_less_time_than_full(kind: str) -> None:
    question = work(runtime=replace(UNFUSED, selective=kind))
    none, selective, full = (
        block_time(question, layout(checkpointing=mode)).device
        for mode in ("none", "selective", "full")
    )
    assert none < selective < full


def test_adapters_spare_the_gradients_of_frozen_weights() -> None:
    whole = block_time(flops_only(), layout()).device
    adapted = block_time(flops_only(method=Method(kind="lora")), layout()).device
    assert 4 / 6 <= adapted / whole < 0.75


@pytest.mark.parametrize(("mode", "least"), [("none", 2.0), ("selective", 2.0), ("full", 3.0)])
def test_the_host_starts_the_kernels_of_every_pass(mode: str, least: float) -> None:
    question = work(runtime=replace(UNFUSED, launch=1e-3))
    host = block_time(question, layout(checkpointing=mode)).host
    assert least * 1e-3 <= host <= 4e-3


def test_a_slow_host_starts_kernels_more_slowly() -> None:
    question = work(runtime=replace(UNFUSED, launch=1e-3))
    slow = replace(question, device=replace(DEVICE, launch_factor=3.0))
    assert block_time(slow, layout()).host == pytest.approx(3 * block_time(question, layout()).host)


@pytest.mark.parametrize("tp", [1, 4])
def test_the_vocabulary_head_is_six_flops_a_parameter_and_token(tp: int) -> None:
    seconds = head_time(flops_only(), layout(tp=tp))
    assert seconds == pytest.approx(6 * MODEL.embedding_parameters * TOKENS / RATE / tp)


def test_the_loss_reads_and_writes_its_logits() -> None:
    plain, fused = (head_time(work(fused_loss=fused), layout()) for fused in (False, True))
    assert plain - fused == pytest.approx(2 * (14 - 2) * 1000 * TOKENS / DEVICE.hbm)


def test_a_frozen_vocabulary_has_no_gradient_of_its_own() -> None:
    whole, adapted = (
        head_time(flops_only(method=Method(kind=kind)), layout()) for kind in ("full", "lora")
    )
    assert adapted / whole == pytest.approx(2 / 3)


@pytest.mark.parametrize("parameters", [1e6, 1e9])
def test_the_optimizer_moves_its_states_through_memory(parameters: float) -> None:
    seconds = optimizer_time(work(), parameters)
    assert 16 * parameters <= seconds * DEVICE.hbm <= 40 * parameters


def test_an_offloaded_optimizer_waits_for_pcie_and_the_host() -> None:
    offloaded = optimizer_time(work(method=Method(offload_optimizer=True)), 1e9)
    assert offloaded > 8e9 / DEVICE.pcie
    assert offloaded > 5 * optimizer_time(work(), 1e9)


@pytest.mark.parametrize(
    "faster",
    [
        {"matmul_bf16": 2e12},
        {"hbm": 2e12},
        {"attention": 2e12},
    ],
)
def test_each_rate_of_the_device_counts(faster: dict[str, float]) -> None:
    better: Device = replace(DEVICE, **faster)  # type: ignore[arg-type]
    assert block_time(work(device=better), layout()).device < block_time(work(), layout()).device


def test_a_cpu_process_is_slower_than_an_accelerator() -> None:
    cpu = work(device=CPU, precision="fp32")
    accelerator = work(precision="fp32")
    assert block_time(cpu, layout()).device > block_time(accelerator, layout()).device
