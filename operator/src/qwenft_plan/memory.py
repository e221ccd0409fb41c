"""Peak memory of the fullest rank, by part, in bytes.

A step has three summits. At the loss all activations and the logits live; when backward begins, the
activations with one block's temporaries; at its end all gradients and the optimizer's temporaries.
In PyTorch, gradients are freed between steps, so without accumulation they never meet the
activations; Megatron keeps its gradient buffer. The peak is the highest summit on the first
pipeline stage (most micro-batches in flight) or the last (logits).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwenft_plan.activations import (
    differentiates_at_loss,
    head_input_bytes,
    in_flight,
    logit_bytes,
    recompute_peak,
    saved_bytes,
    tokens,
)
from qwenft_plan.states import BF16_PURE, states
from qwenft_plan.workload import Layout, Workload

__all__ = [
    "CPU_PROCESS",
    "SAFETY",
    "MemoryParts",
    "peak_allocated",
    "peak_memory",
    "stage_layers",
    "stage_parameters",
]

SAFETY = 0.92
"""A plan fits when its peak stays below this share of the device's memory."""

CPU_PROCESS = 0.65 * 1024**3
"""Resident bytes of a rank before its model: Python, torch, gloo."""

_SHARES_WEIGHTS = 3
_CHUNK = 2.0**22  # numbers that the own trainer turns into codes, or back, at once
_UNPACKING = 14.0  # bytes per number of a chunk: its code as bytes and as an index, value, scaled
_EIGHT_BIT_STEP = 21.0  # bytes per number of a chunk: moments, their codes, the update
_UNEVEN = 1.03  # a device map by size leaves the first device less than its share


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
        tensors = self.weights + self.gradients + self.optimizer + self.activations
        return tensors + self.logits + self.buffers + self.overhead

    @property
    def allocated(self) -> float:
        """Live tensors only, without allocator slack and context."""
        return self.total - self.overhead


def peak_memory(work: Workload, layout: Layout) -> MemoryParts:
    """Return the parts of the fullest rank of `layout` at its highest summit."""
    return max(_all_summits(work, layout), key=_total)


def peak_allocated(work: Workload, layout: Layout) -> float:
    """Return the most bytes of live tensors; the summit of all memory may be another one."""
    return max(parts.allocated for parts in _all_summits(work, layout))


def _all_summits(work: Workload, layout: Layout) -> list[MemoryParts]:
    stages = (0,) if layout.pp == 1 else (0, layout.pp - 1)
    return [parts for stage in stages for parts in _summits(work, layout, stage)]


def stage_layers(work: Workload, layout: Layout) -> int:
    """Return the blocks of the largest stage."""
    even = work.model.layers / layout.pp
    if layout.schedule == "naive":
        return round(even * _UNEVEN)
    return math.ceil(even)


def stage_parameters(work: Workload, layout: Layout, stage: int) -> float:
    """Return the parameters on one rank of `stage` before sharding, after tensor parallelism."""
    blocks = stage_layers(work, layout) * work.model.layer_parameters / layout.tp
    return blocks + vocabulary_parameters(work, layout, stage)


def vocabulary_parameters(work: Workload, layout: Layout, stage: int) -> float:
    """Return the parameters of `stage` that are vocabulary matrices or the last norm."""
    model, first, last = work.model, stage == 0, stage == layout.pp - 1
    count = model.embedding_parameters if first else 0
    if last:
        count += model.hidden + (0 if model.tied and first else model.embedding_parameters)
    return count / layout.tp


def _total(parts: MemoryParts) -> float:
    return parts.total


def _summits(work: Workload, layout: Layout, stage: int) -> tuple[MemoryParts, ...]:
    blocks = stage_layers(work, layout) * work.model.layer_parameters / layout.tp
    vocabulary = vocabulary_parameters(work, layout, stage)
    weights, gradients, optimizer = states(work, layout, blocks, vocabulary)
    if work.on_host:  # the largest unit's, whole and summed, on its way to the host
        gradients = 8.0 * max(vocabulary, work.model.layer_parameters / layout.tp)
    depth, held = stage_layers(work, layout), in_flight(layout, stage)
    count = tokens(work, layout)
    saved, last = saved_bytes(work, layout), stage == layout.pp - 1
    logits = logit_bytes(work, layout) if last else 0.0
    head_input = head_input_bytes(work, layout) if last else 0.0
    buffers = _buffers(work, layout, blocks, vocabulary)
    early = _gradients_stay(work, layout)
    pooled = _pooled(work, layout, gradients)
    held_by = {"weights": weights, "optimizer": optimizer, "buffers": buffers}
    at_loss = _parts(
        work,
        **held_by | {"buffers": _whole_at_loss(work, layout, buffers, vocabulary)},
        gradients=gradients if early else 0.0,
        activations=count * held * depth * saved + head_input,
        logits=logits,
        pooled=pooled,
    )
    in_backward = _parts(
        work,
        **held_by,
        gradients=gradients if early else _head_gradient(work, layout, last=last),
        activations=count * (held * depth * saved + recompute_peak(work, layout)),
        logits=0.0,
        pooled=pooled,
    )
    at_end = _parts(
        work,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=count * recompute_peak(work, layout),
        logits=0.0,
        buffers=max(
            min(buffers, _gathered_at_end(work, layout, vocabulary)),
            _step_temporaries(work, layout, blocks + vocabulary),
        ),
    )
    return at_loss, in_backward, at_end


def _gradients_stay(work: Workload, layout: Layout) -> bool:
    """Whether reduced gradients are there before the last backward ends."""
    if work.on_host:
        return False
    return work.runtime.kept_gradients or (layout.accumulation > 1 and not _unreduced(work, layout))


def _pooled(work: Workload, layout: Layout, gradients: float) -> float:
    """Bytes of the allocator's pool that only sharded gradients use.

    FSDP reduces on a stream of its own, and memory that one stream frees serves no other: what the
    last step's gradients took stays reserved beside the activations of this one. Sharded gradients
    that are reduced with every micro-batch lie there themselves.
    """
    if _gradients_stay(work, layout) and _sharded(layout):
        return 0.0
    streams = work.runtime.sharded and work.device.vendor != "cpu" and not work.on_host
    return gradients if streams and _gathers(work, layout) else 0.0


def _unreduced(work: Workload, layout: Layout) -> bool:
    """Whether a stage that stays gathered keeps its gradients whole, in fp32, as buffers too."""
    return work.runtime.always_wraps and _stays_gathered(layout) and _gathers(work, layout)


def _stays_gathered(layout: Layout) -> bool:
    """Whether a stage's weights are gathered once for all micro-batches of a step."""
    return layout.pp > 1 or not layout.reshard_after_forward


def _head_gradient(work: Workload, layout: Layout, *, last: bool) -> float:
    """Bytes of the output projection's gradient, which backward makes first."""
    if work.method.kind != "full" or not last or _unreduced(work, layout):
        return 0.0
    return 4.0 * work.model.embedding_parameters / layout.tp


def _parts(work: Workload, pooled: float = 0.0, **parts: float) -> MemoryParts:
    tensors = sum(parts.values())
    overhead = tensors * (work.runtime.allocator - 1.0)
    overhead += work.runtime.overhead if work.device.vendor != "cpu" else CPU_PROCESS
    return MemoryParts(**parts, overhead=overhead + pooled)


def _step_temporaries(work: Workload, layout: Layout, parameters: float) -> float:
    """Bytes of the optimizer step's temporaries: foreach kernels copy what is bf16."""
    if work.method.optimizer == "adamw8bit" and work.runtime.always_wraps:
        model, share = work.model, layout.tp * layout.dp_shard
        largest = max(model.embedding_parameters, model.hidden * model.ffn) / share
        return _EIGHT_BIT_STEP * min(largest, _CHUNK)
    if work.precision != BF16_PURE or work.method.kind != "full":
        return 0.0
    return work.runtime.step_temporary * parameters / (layout.dp_shard if layout.zero else 1)


def _buffers(work: Workload, layout: Layout, blocks: float, vocabulary: float) -> float:
    """Gathered weights and unreduced gradients under full sharding, else weight gradients."""
    width, block = work.element_bytes, work.model.layer_parameters / layout.tp
    if not _gathers(work, layout):
        # The own trainer's frozen weights have neither a copy nor a gradient.
        frozen = work.runtime.always_wraps and work.method.kind != "full"
        return _unpacked(work) if frozen else width * block
    if _stays_gathered(layout):
        gradients = 4 * (blocks + vocabulary) if work.method.kind == "full" else 0.0
        return work.block_bytes * blocks + width * vocabulary + gradients + _unpacked(work)
    if not _sharded(layout):
        # The copy that computes, never freed.
        return width * (blocks + vocabulary + block) + _crossing(work, layout, vocabulary)
    return _gathered(work, layout, vocabulary)


def _sharded(layout: Layout) -> bool:
    return layout.zero >= _SHARES_WEIGHTS and layout.dp_shard * layout.cp > 1


def _gathers(work: Workload, layout: Layout) -> bool:
    """Whether blocks compute on a copy that is gathered for them."""
    wraps = work.runtime.always_wraps and work.method.kind == "full"
    return layout.zero >= _SHARES_WEIGHTS and (_sharded(layout) or wraps)


def _whole_at_loss(work: Workload, layout: Layout, buffers: float, vocabulary: float) -> float:
    """Bytes of gathered weights while the own trainer computes the loss.

    Of the blocks that do not stay gathered only the last one is whole: its backward is next.
    """
    freed = not _stays_gathered(layout) and layout.dp_shard > 1
    if not (work.runtime.always_wraps and freed):
        return buffers - _unpacked(work)
    block = work.block_bytes * work.model.layer_parameters / layout.tp
    if differentiates_at_loss(work, layout):
        block *= 2.0  # what it was gathered into is freed when backward begins
    return work.element_bytes * vocabulary + block


def _gathered(work: Workload, layout: Layout, vocabulary: float) -> float:
    """Bytes of the blocks and vocabulary matrices that are whole at once under full sharding."""
    block = work.model.layer_parameters / layout.tp
    blocks = work.runtime.gathered_blocks * work.block_bytes * block
    crossing = _crossing(work, layout, vocabulary)
    return work.element_bytes * vocabulary + blocks + crossing + _unpacked(work)


def _crossing(work: Workload, layout: Layout, vocabulary: float) -> float:
    """Bytes of the shard, in fp32, of what comes over from the host to be gathered next."""
    if not work.on_host:
        return 0.0
    return 4.0 * max(vocabulary, work.model.layer_parameters / layout.tp) / layout.dp_shard


def _unpacked(work: Workload) -> float:
    """Bytes of the matrix that a product unpacks from 4 bits, and of what unpacking needs."""
    if not work.packs:
        return 0.0
    largest = work.model.hidden * max(work.model.ffn, work.model.attention_width)
    return work.element_bytes * largest + _UNPACKING * min(largest, _CHUNK)


def _gathered_at_end(work: Workload, layout: Layout, vocabulary: float) -> float:
    """Bytes of what is whole while the first block's backward ends: alone, no other is fetched."""
    if layout.dp_shard * layout.cp > 1:
        return _gathered(work, layout, vocabulary)
    return work.element_bytes * (vocabulary + work.model.layer_parameters / layout.tp)
