"""A runtime, a device and a model with round constants, for calculation by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qwenft_plan.hardware import GIB, Device
from qwenft_plan.model import ModelShape
from qwenft_plan.runtimes import Runtime
from qwenft_plan.workload import Layout, Workload

UNFUSED = Runtime(
    name="unfused",
    words="unfused",
    saved_hidden=16.0,
    saved_attention=4.0,
    saved_ffn=8.0,
    saved_plain=4.0,
    selective="products",
    logit=14.0,
    sharded=True,
    gradient=4.0,
    optimizer=8.0,
    kept_gradients=False,
    step_temporary=0.0,
    sequence_parallel=True,
    keeps_gathered=False,
    gathered_blocks=2.0,
    always_wraps=False,
    chunked_loss=False,
    allocator=1.0,
    overhead=0.0,
    matmul=0.5,
    attention=1.0,
    traffic=4.0,
    launch=0.0,
    score_bytes=10.0,
    straggle=0.0,
    collective=0.0,
    collective_rank=0.0,
    tp_exposed=1.0,
    shard_exposed=0.0,
    step=0.0,
    zero=3,
    flash=True,
)
"""Hugging Face modules under FSDP2: fp32 copies in norms and loss, nothing fused."""

FUSED = replace(UNFUSED, name="fused", saved_hidden=8.0, saved_ffn=6.0, logit=6.0)
"""The same with fused norms, gates and loss."""

MEGATRON_LIKE = replace(
    FUSED, name="megatron-like", sharded=False, optimizer=12.0, kept_gradients=True, zero=1
)
"""bf16 weights, a gradient buffer that is never freed, fp32 master weights in the optimizer."""

DEVICE = Device(
    name="ROUND-10GB",
    vendor="nvidia",
    peak_bf16=2e12,
    matmul_bf16=1e12,
    matmul_fp8=2e12,
    matmul_fp32=1e11,
    memory=10 * GIB,
    attention=1e12,
    sustained=1.0,
    hbm=1e12,
    link=4e10,
    network=1e10,
    pcie=1e10,
    link_latency=0.0,
    network_latency=0.0,
    per_node=8,
    launch_factor=1.0,
)

MODEL = ModelShape(
    name="round",
    hidden=100,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=25,
    ffn=200,
    vocab=1000,
    tied=False,
)
"""Block: 2·100·25·(4+2) + 3·100·200 + 200 = 90,200; vocabulary matrix: 100,000 parameters."""


def work(model: ModelShape = MODEL, runtime: Runtime = UNFUSED, **changes: Any) -> Workload:
    """Return 1,000 tokens a sequence of the round model, eight round devices a node."""
    values: dict[str, Any] = {"device": DEVICE, "sequence_length": 1000, "per_node": 8}
    return Workload(model=model, runtime=runtime, **values | changes)


def layout(**changes: Any) -> Layout:
    """Return a layout of one device with some degrees changed."""
    return Layout(**changes)
