"""Seconds of computation: one block, the vocabulary head, the optimizer.

A matrix multiplication takes its FLOPs at the sustained rate plus its bytes through HBM: the sum,
not the maximum, which is how small and narrow ones lose efficiency. Norms, activations and
residuals are bytes through HBM, a multiple of what autograd keeps. A block never runs faster than
the host can start its kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenft_plan.activations import logit_bytes, tokens, whole_block
from qwenft_plan.workload import Layout, Workload

__all__ = ["Block", "block_time", "head_time", "matmul_rate", "optimizer_time"]

_BEST_SHARE = 0.965  # no mix of kernels comes closer to the best rate of a single one
_HOST_ADAM = 40e9  # bytes/s of DeepSpeed's CPU Adam on a current server, per device
# Bytes through HBM a number. Counted over the own trainer's operations they are 196 and 32; what
# steps of a 7B model took on an H200 (`tests/truth/gpu_runs.json`) is this many.
_EIGHT_BIT_BYTES = 390
_UNPACKING_BYTES = 96
_HOST_PER_MODE = {"none": 2.3, "selective": 2.6, "full": 3.3}  # all kernels over forward's


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Seconds of one block for one micro-batch, forward and backward together.

    `device` is the time of its kernels, `host` the time to start them: the slower one rules.
    """

    device: float
    host: float


def matmul_rate(work: Workload) -> float:
    """Return the FLOP/s of large matrix multiplications inside this runtime's model."""
    device, share = work.device, work.runtime.matmul
    if work.precision == "fp32":
        return device.matmul_fp32 * share
    rate = device.matmul_fp8 if work.precision == "fp8" else device.matmul_bf16
    return rate * min(device.sustained * share, _BEST_SHARE)


def block_time(work: Workload, layout: Layout) -> Block:
    """Return the seconds of one block of `layout`, recomputation included in backward."""
    products, attention = _products(work, layout), _attention(work, layout)
    traffic = _traffic(work, layout)
    plain = products + attention + traffic / 3
    again = {
        "none": 0.0,
        "selective": _selective_again(work, products, attention, traffic / 3),
        "full": plain,
    }[layout.checkpointing]
    # Frozen weights have no gradient, so adapters spare one of backward's two multiplications.
    gradients = 2.0 if work.method.kind == "full" else 1.1
    backward = gradients * products + 2.5 * attention + traffic * 2 / 3 + again
    plain, backward = plain + _unpacking(work, layout), backward + _unpacking(work, layout)
    launch = work.runtime.launch * work.device.launch_factor
    return Block(device=plain + backward, host=launch * _HOST_PER_MODE[layout.checkpointing])


def _unpacking(work: Workload, layout: Layout) -> float:
    """Seconds of unpacking a block's matrices for one pass; what is computed again unpacks, too."""
    if not work.packs:
        return 0.0
    once = work.model.layer_parameters / layout.tp * _UNPACKING_BYTES / work.device.hbm
    return once if layout.checkpointing == "none" else 1.5 * once


def head_time(work: Workload, layout: Layout) -> float:
    """Return the seconds of vocabulary projection and loss, forward and backward."""
    rows, columns = tokens(work, layout), work.model.vocab / layout.tp
    gradients = 3 if work.method.kind == "full" else 2
    loss = 2.0 * logit_bytes(work, layout) / work.device.hbm
    return gradients * _product(work, rows, columns, work.model.hidden) + loss


def optimizer_time(work: Workload, parameters: float) -> float:
    """Return the seconds of the optimizer step over `parameters` of one rank."""
    if work.method.offload_optimizer and work.device.vendor != "cpu":
        return parameters * (2 * 4 / work.device.pcie + 28 / _HOST_ADAM)
    if work.method.optimizer == "adamw8bit" and work.runtime.always_wraps:
        return parameters * _EIGHT_BIT_BYTES / work.device.hbm
    return parameters * 28 / work.device.hbm


def _selective_again(work: Workload, products: float, attention: float, traffic: float) -> float:
    """Seconds of what selective checkpointing computes again."""
    kind = work.runtime.selective
    if kind == "attention":
        return attention
    return traffic if kind == "products" else traffic + products / 2


def _product(work: Workload, rows: float, columns: float, inner: float) -> float:
    """Seconds of a (rows × inner) · (inner × columns) multiplication."""
    flops = 2.0 * rows * columns * inner / matmul_rate(work)
    moved = work.element_bytes * (rows * inner + inner * columns + rows * columns)
    return flops + moved / work.device.hbm


def _products(work: Workload, layout: Layout) -> float:
    """Forward seconds of one block's matrix multiplications."""
    rows, tp, model = tokens(work, layout), layout.tp, work.model
    wide = (2 if model.gated else 1) * model.ffn / tp
    return (
        _product(work, rows, (model.attention_width + 2 * model.kv_width) / tp, model.hidden)
        + _product(work, rows, model.hidden, model.attention_width / tp)
        + _product(work, rows, wide, model.hidden)
        + _product(work, rows, model.hidden, model.ffn / tp)
    )


def _attention(work: Workload, layout: Layout) -> float:
    """Forward seconds of the attention core."""
    model, rows = work.model, tokens(work, layout)
    flops = 4.0 * rows * work.sequence_length * model.attention_width / layout.tp
    if work.precision == "fp32":
        return flops / 2 / matmul_rate(work)
    if work.flash:
        return flops / 2 / (work.device.attention * work.runtime.attention)
    scores = rows * work.sequence_length * model.heads / layout.tp
    rate = work.device.matmul_bf16 * work.runtime.matmul * 0.6  # batched products are narrow
    return flops / rate + work.runtime.score_bytes * scores / work.device.hbm


def _traffic(work: Workload, layout: Layout) -> float:
    """Forward and backward seconds of norms, activations and residuals."""
    runtime = work.runtime
    traffic = runtime.compiled_traffic if work.compiled else None
    traffic = runtime.traffic if traffic is None else traffic
    moved = traffic * whole_block(work, layout) * tokens(work, layout)
    if not work.flash:
        scores = 6.0 * work.model.heads * work.sequence_length / layout.tp
        moved -= traffic * scores * tokens(work, layout)
    return max(0.0, moved) / work.device.hbm
