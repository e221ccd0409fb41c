"""Peak memory of the fullest rank, by part, in bytes.

States follow from parameters per rank, activations from what autograd keeps per token and block
(`qwenft_plan.runtimes`), logits from vocabulary × tokens on the last pipeline stage. The stage with
the largest sum is the peak: the first holds the most micro-batches, the last holds the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from qwenft_plan.workload import Layout, Workload

__all__ = ["SAFETY", "MemoryParts", "in_flight", "peak_memory"]

SAFETY = 0.92
"""A plan fits when its peak stays below this share of the device's memory."""

_QLORA_BYTES = 0.56  # 4-bit weights, one absmax per 64 values, double quantization
_ADAM8_BYTES = 2.06  # two 8-bit moments and their block constants


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryParts:
    """Bytes of one rank at its peak; `overhead` is what lies outside the tensors."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float
    overhead: float

    @property
    def total(self) -> float:
        """Everything together: what the device must have."""
        return float(sum(getattr(self, field.name) for field in fields(self)))

    @property
    def allocated(self) -> float:
        """Live tensors only, without allocator slack and context."""
        return self.total - self.overhead


def peak_memory(work: Workload, layout: Layout) -> MemoryParts:
    """Return the parts of the fullest rank of `layout`."""
    stages = {0, layout.pp - 1}
    return max((_stage_memory(work, layout, stage) for stage in sorted(stages)), key=_total)


def in_flight(layout: Layout, stage: int) -> float:
    """Return how many micro-batches' activations `stage` holds, in units of its whole depth."""
    if layout.pp == 1:
        return 1.0
    waiting = min(layout.accumulation, layout.pp - stage)
    if layout.schedule == "GPipe":
        return float(layout.accumulation)
    if layout.schedule == "ZBVZeroBubble":
        return float(min(layout.accumulation, layout.pp))
    if layout.virtual_stages > 1:
        chunks = layout.virtual_stages
        held = (layout.pp - stage - 1) * 2 + (chunks - 1) * layout.pp + 1
        return min(float(layout.accumulation), held / chunks)
    return float(waiting)


def stage_layers(work: Workload, layout: Layout) -> int:
    """Return the blocks of the largest stage."""
    return math.ceil(work.model.layers / layout.pp)


def stage_parameters(work: Workload, layout: Layout, stage: int) -> float:
    """Return the parameters on one rank of `stage` before sharding, after tensor parallelism."""
    model = work.model
    count = stage_layers(work, layout) * model.layer_parameters
    first, last = stage == 0, stage == layout.pp - 1
    if first:
        count += model.embedding_parameters
    if last:
        count += model.hidden + (0 if model.tied and first else model.embedding_parameters)
    return count / layout.tp


def _total(parts: MemoryParts) -> float:
    return parts.total


def _stage_memory(work: Workload, layout: Layout, stage: int) -> MemoryParts:
    parameters = stage_parameters(work, layout, stage)
    weights, gradients, optimizer = _states(work, layout, parameters)
    activations = _activations(work, layout, stage)
    logits = _logits(work, layout) if stage == layout.pp - 1 else 0.0
    buffers = _buffers(work, layout, parameters)
    tensors = weights + gradients + optimizer + activations + logits + buffers
    runtime = work.runtime
    overhead = tensors * (runtime.allocator - 1.0)
    if work.device.vendor != "cpu":
        overhead += runtime.overhead
    return MemoryParts(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        buffers=buffers,
        overhead=overhead,
    )


def _states(work: Workload, layout: Layout, parameters: float) -> tuple[float, float, float]:
    """Weights, gradients, optimizer bytes of one rank."""
    share = _shares(layout)
    if work.method.kind != "full":
        return _adapter_states(work, layout, parameters)
    if work.precision == "fp32":
        per_weight, per_gradient, master = 4.0, 4.0, 0.0
    elif work.precision == "bf16_pure":
        per_weight, per_gradient, master = 2.0, 2.0, 0.0
    elif work.runtime.states == "sharded":
        per_weight, per_gradient, master = 4.0, 4.0, 0.0
    else:
        per_weight, per_gradient, master = 2.0, 4.0, 4.0
    moments = _moments(work)
    optimizer = 0.0 if work.method.offload_optimizer else moments + master
    return (
        per_weight * parameters / share[0],
        per_gradient * parameters / share[1],
        optimizer * parameters / share[2],
    )


def _moments(work: Workload) -> float:
    """Bytes per parameter of Adam's two moments."""
    if work.method.optimizer == "adamw8bit":
        return _ADAM8_BYTES
    return 4.0 if work.precision == "bf16_pure" else 8.0


def _shares(layout: Layout) -> tuple[int, int, int]:
    """Ranks that share weights, gradients, optimizer."""
    shard = layout.dp_shard * layout.cp
    return (
        shard if layout.zero >= 3 else 1,  # noqa: PLR2004
        shard if layout.zero >= 2 else 1,  # noqa: PLR2004
        shard if layout.zero >= 1 else 1,
    )


def adapter_parameters(work: Workload) -> float:
    """Return the trainable parameters of the adapters: rank × (rows + columns) a matrix."""
    model, method = work.model, work.method
    attention = [
        (model.hidden, model.attention_width),
        (model.hidden, model.kv_width),
        (model.hidden, model.kv_width),
        (model.attention_width, model.hidden),
    ]
    block = [*attention, *[(model.hidden, model.ffn)] * (3 if model.gated else 2)]
    per_block = sum(rows + columns for rows, columns in block[: method.adapted])
    return float(method.rank * per_block * model.layers)


def _adapter_states(
    work: Workload, layout: Layout, parameters: float
) -> tuple[float, float, float]:
    frozen = _QLORA_BYTES if work.method.kind == "qlora" else float(work.element_bytes)
    trainable = adapter_parameters(work) / layout.tp / layout.pp
    share = _shares(layout)
    optimizer = 0.0 if work.method.offload_optimizer else _moments(work)
    return (
        frozen * parameters / share[0] + 4.0 * trainable / share[0],
        4.0 * trainable / share[1],
        optimizer * trainable / share[2],
    )


def tokens(work: Workload, layout: Layout) -> float:
    """Return the tokens that one rank handles in one micro-batch."""
    return work.sequence_length * layout.micro_batch / layout.cp


def saved_per_token(work: Workload, layout: Layout) -> float:
    """Return the bytes that autograd keeps of one block for one token on one rank."""
    model, runtime = work.model, work.runtime
    scale = work.element_bytes / 2
    attention = runtime.saved_attention * (model.attention_width + model.kv_width) + 4 * model.heads
    inner = attention + runtime.saved_ffn * model.ffn * (1.0 if model.gated else 0.75)
    if not _flash(work):
        inner += 6.0 * model.heads * work.sequence_length
    norms = runtime.saved_hidden * model.hidden
    split = layout.tp if runtime.sequence_parallel else 1
    return scale * (norms / split + inner / layout.tp)


def _flash(work: Workload) -> bool:
    return work.runtime.flash if work.flash_attention is None else work.flash_attention


def _activations(work: Workload, layout: Layout, stage: int) -> float:
    count, depth = tokens(work, layout), stage_layers(work, layout)
    block = saved_per_token(work, layout)
    held = in_flight(layout, stage)
    boundary = float(work.element_bytes * work.model.hidden)
    boundary /= layout.tp if work.runtime.sequence_parallel else 1
    if layout.checkpointing == "full":
        return count * (held * depth * boundary + 1.5 * block)
    if layout.checkpointing == "selective":
        kept = block * selective_share(work)
        return count * (held * depth * kept + 0.5 * block)
    return count * (held * depth * block + 0.5 * block)


def selective_share(work: Workload) -> float:
    """Return the share of a block's activations that selective checkpointing keeps.

    Kept are the outputs of every other matrix multiplication and of attention; norms, gate products
    and the rest are computed again.
    """
    return 0.45 if _flash(work) else 0.3


def _logits(work: Workload, layout: Layout) -> float:
    per_logit = work.runtime.logit
    if work.fused_loss:
        per_logit = min(per_logit, 2.0)
    return per_logit * tokens(work, layout) * work.model.vocab / layout.tp


def _buffers(work: Workload, layout: Layout, parameters: float) -> float:
    """Whole blocks under full sharding, temporaries of weight gradients or of the optimizer."""
    model, runtime = work.model, work.runtime
    if layout.zero >= 3 and layout.dp_shard * layout.cp > 1:  # noqa: PLR2004
        blocks = runtime.gathered_blocks * model.layer_parameters
        unit = max(blocks, model.embedding_parameters + model.layer_parameters)
        return 2 * work.element_bytes * unit / layout.tp
    if work.precision == "bf16_pure" and work.method.kind == "full":
        return runtime.foreach * parameters
    return work.element_bytes * model.layer_parameters / layout.tp
