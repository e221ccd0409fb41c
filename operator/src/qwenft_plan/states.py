"""Bytes of weights, gradients and optimizer states on one rank."""

from __future__ import annotations

from qwenft_plan.workload import Layout, Workload

__all__ = ["BF16_PURE", "adapter_parameters", "states"]

BF16_PURE = "bf16_pure"
_QLORA_BYTES = 0.56  # 4-bit weights, one absmax per 64 values, double quantization
_ADAM8_BYTES = 2.06  # two 8-bit moments and their block constants


def states(
    work: Workload, layout: Layout, blocks: float, vocabulary: float
) -> tuple[float, float, float]:
    """Return (weights, gradients, optimizer) bytes for the parameters of a rank's stage.

    `blocks` and `vocabulary` are parameters after tensor and before data-parallel sharding.
    """
    share = _shares(layout)
    if work.method.kind != "full":
        return _adapter_states(work, layout, blocks, vocabulary)
    parameters = blocks + vocabulary
    weight, gradient = _widths(work)
    moments = 0.0 if work.method.offload_optimizer else _optimizer_width(work)
    return (
        weight * parameters / share[0],
        gradient * parameters / share[1],
        moments * parameters / share[2],
    )


def adapter_parameters(work: Workload) -> float:
    """Return the trainable parameters of the adapters: rank × (rows + columns) a matrix."""
    model, method = work.model, work.method
    sizes = {
        "q_proj": model.hidden + model.attention_width,
        "k_proj": model.hidden + model.kv_width,
        "v_proj": model.hidden + model.kv_width,
        "o_proj": model.attention_width + model.hidden,
        "gate_proj": model.hidden + model.ffn if model.gated else 0,
        "up_proj": model.hidden + model.ffn,
        "down_proj": model.ffn + model.hidden,
    }
    return float(method.rank * sum(sizes[name] for name in method.adapted) * model.layers)


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
        return _ADAM8_BYTES + master
    if work.precision == BF16_PURE:
        return 4.0
    return work.runtime.optimizer if mixed else 8.0


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
    frozen = (_QLORA_BYTES if work.method.kind == "qlora" else width) * blocks + width * vocabulary
    trainable = adapter_parameters(work) / layout.tp / layout.pp
    share = _shares(layout)
    moments = _ADAM8_BYTES if work.method.optimizer == "adamw8bit" else 8.0
    return (
        (frozen + 4.0 * trainable) / share[0],
        4.0 * trainable / share[1],
        0.0 if work.method.offload_optimizer else moments * trainable / share[2],
    )
