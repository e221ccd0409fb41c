"""Bytes of weights, gradients and optimizer states on one rank."""

from __future__ import annotations

import math

from qwenft_plan.model import ModelShape
from qwenft_plan.workload import PACKED_BYTES, Layout, Workload

__all__ = ["BF16_PURE", "adapter_parameters", "matrices", "moment_block", "states"]

BF16_PURE = "bf16_pure"
_QLORA_BYTES = 0.56  # bitsandbytes: 4-bit weights, one absmax per 64 values
_MOST_IN_BLOCK, _LEAST_IN_BLOCK = 256, 16
_ADAM8_BYTES = 2.06  # bitsandbytes and torchao: two 8-bit moments, one scale per 256 values


def states(
    work: Workload, layout: Layout, blocks: float, vocabulary: float
) -> tuple[float, float, float]:
    """Return (weights, gradients, optimizer) bytes for the parameters of a rank's stage.

    `blocks` and `vocabulary` are parameters after tensor and before data-parallel sharding.
    """
    share = _shares(layout)
    if work.method.kind != "full":
        return _adapter_states(work, layout, blocks, vocabulary)
    if work.on_host:
        return 0.0, 0.0, 0.0
    parameters = blocks + vocabulary
    weight, gradient = _widths(work)
    # On CPU nodes the own trainer's host is the device.
    elsewhere = work.method.offload_optimizer and not work.runtime.always_wraps
    moments = 0.0 if elsewhere else _optimizer_width(work)
    return (
        weight * parameters / share[0],
        gradient * parameters / share[1],
        moments * parameters / share[2],
    )


def moment_block(columns: int) -> int:
    """Return how many numbers of a row of 8-bit moments share a scale; 0: they stay in fp32.

    A power of two that divides an eighth of the row, so that no block is torn by tensor parallel
    ranks and every plan rounds alike; 256 at most, as in arXiv 2110.02861.
    """
    block = math.gcd(columns // 8, _MOST_IN_BLOCK) if columns % 8 == 0 else 0
    return block if block >= _LEAST_IN_BLOCK else 0


def adapter_parameters(work: Workload) -> float:
    """Return the trainable parameters of the adapters: rank × (rows + columns) a matrix."""
    sizes, rank = matrices(work.model), work.method.rank
    each = (sum(sizes[name]) for name in work.method.adapted if name in sizes)
    return float(rank * sum(each) * work.model.layers)


def _widths(work: Workload) -> tuple[float, float]:
    """Bytes per parameter of weights and gradients."""
    if work.precision == "fp32":
        return 4.0, 4.0
    if work.precision == BF16_PURE:
        return 2.0, 2.0
    return (4.0 if work.runtime.sharded else 2.0), work.runtime.gradient


def _optimizer_width(work: Workload) -> float:
    """Bytes per parameter of the optimizer: two moments, and master weights where kept apart."""
    mixed = work.precision not in {"fp32", BF16_PURE}
    master = 4.0 if mixed and not work.runtime.sharded else 0.0
    if work.method.optimizer == "adamw8bit":
        return _adam8_width(work) + master
    if work.precision == BF16_PURE:
        return 4.0
    return work.runtime.optimizer if mixed else 8.0


def _adam8_width(work: Workload) -> float:
    """Bytes per parameter of two moments in 8 bits with the scales of their blocks."""
    if not work.runtime.always_wraps:
        return _ADAM8_BYTES
    every = [*matrices(work.model).values(), (2 * work.model.vocab, work.model.hidden)]
    repeated = [work.model.layers] * (len(every) - 1) + [1]
    count = [times * rows * columns for times, (rows, columns) in zip(repeated, every, strict=True)]
    widths = [_moment_width(columns) for _, columns in every]
    return sum(a * b for a, b in zip(count, widths, strict=True)) / max(1, sum(count))


def _moment_width(columns: int) -> float:
    block = moment_block(columns)
    return 2.0 + 8.0 / block if block else 8.0


def matrices(model: ModelShape) -> dict[str, tuple[int, int]]:
    """Return (rows, columns) of a block's matrices: what they put out, what they take in."""
    return {
        "q_proj": (model.attention_width, model.hidden),
        "k_proj": (model.kv_width, model.hidden),
        "v_proj": (model.kv_width, model.hidden),
        "o_proj": (model.hidden, model.attention_width),
        **({"gate_proj": (model.ffn, model.hidden)} if model.gated else {}),
        "up_proj": (model.ffn, model.hidden),
        "down_proj": (model.hidden, model.ffn),
    }


def _adapter_moments(work: Workload) -> float:
    """Return the bytes of all adapters' moments: A has a matrix's columns, B the rank's."""
    eight = work.method.optimizer == "adamw8bit"
    if not eight:
        return 8.0 * adapter_parameters(work)
    if not work.runtime.always_wraps:
        return _ADAM8_BYTES * adapter_parameters(work)
    rank, sizes = work.method.rank, matrices(work.model)
    adapted = [sizes[name] for name in work.method.adapted if name in sizes]
    block = sum(
        rank * columns * _moment_width(columns) + rows * rank * _moment_width(rank)
        for rows, columns in adapted
    )
    return float(block * work.model.layers)


def _shares(layout: Layout) -> tuple[int, int, int]:
    """Ranks that share weights, gradients, optimizer."""
    shard = layout.dp_shard * layout.cp
    return (
        shard if layout.zero >= 3 else 1,  # noqa: PLR2004
        shard if layout.zero >= 2 else 1,  # noqa: PLR2004
        shard if layout.zero >= 1 else 1,
    )


def _adapter_states(
    work: Workload, layout: Layout, blocks: float, vocabulary: float
) -> tuple[float, float, float]:
    """Frozen weights (4-bit in the blocks under QLoRA), fp32 adapters with their states."""
    width = float(work.element_bytes)
    packed = PACKED_BYTES if work.packs else _QLORA_BYTES
    frozen = (packed if work.method.kind == "qlora" else width) * blocks + width * vocabulary
    trainable = adapter_parameters(work) / layout.tp / layout.pp
    share = _shares(layout)
    moments = _adapter_moments(work) / layout.tp / layout.pp
    return (
        (frozen + 4.0 * trainable) / share[0],
        4.0 * trainable / share[1],
        0.0 if work.method.offload_optimizer else moments / share[2],
    )
