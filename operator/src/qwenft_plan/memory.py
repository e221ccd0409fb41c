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
    head_input_bytes,
    in_flight,
    logit_bytes,
    recompute_peak,
    saved_bytes,
    tokens,
)
from qwenft_plan.states import BF16_PURE, states
from qwenft_plan.workload import Layout, Workload

__all__ = ["SAFETY", "MemoryParts", "peak_memory", "stage_layers", "stage_parameters"]

SAFETY = 0.92
"""A plan fits when its peak stays below this share of the device's memory."""

_SHARES_WEIGHTS = 3
_CPU_PROCESS = 0.65 * 1024**3  # resident bytes of a rank before its model: Python, torch, gloo
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
    stages = (0,) if layout.pp == 1 else (0, layout.pp - 1)
    summits = [parts for stage in stages for parts in _summits(work, layout, stage)]
    return max(summits, key=_total)


def stage_layers(work: Workload, layout: Layout) -> int:
    """Return the blocks of the largest stage."""
    even = work.model.layers / layout.pp
    return math.ceil(even * _UNEVEN if layout.schedule == "naive" else even)


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
    depth, held = stage_layers(work, layout), in_flight(layout, stage)
    count = tokens(work, layout)
    saved, last = saved_bytes(work, layout), stage == layout.pp - 1
    logits = logit_bytes(work, layout) if last else 0.0
    head_input = head_input_bytes(work, layout) if last else 0.0
    buffers = _buffers(work, layout, blocks, vocabulary)
    early = _gradients_stay(work, layout)
    held_by = {"weights": weights, "optimizer": optimizer, "buffers": buffers}
    at_loss = _parts(
        work,
        **held_by | {"buffers": _whole_at_loss(work, layout, buffers, vocabulary)},
        gradients=gradients if early else 0.0,
        activations=count * held * depth * saved + head_input,
        logits=logits,
    )
    in_backward = _parts(
        work,
        **held_by,
        gradients=gradients if early else _head_gradient(work, layout, last=last),
        activations=count * (held * depth * saved + recompute_peak(work, layout)),
        logits=0.0,
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
    return work.runtime.kept_gradients or (layout.accumulation > 1 and not _unreduced(work, layout))


def _unreduced(work: Workload, layout: Layout) -> bool:
    """Whether a pipeline's stage keeps its gradients whole, as buffers, to the last micro-batch."""
    return work.runtime.always_wraps and layout.pp > 1 and _gathers(work, layout)


def _head_gradient(work: Workload, layout: Layout, *, last: bool) -> float:
    """Bytes of the output projection's gradient, which backward makes first."""
    if work.method.kind != "full" or not last or _unreduced(work, layout):
        return 0.0
    return 4.0 * work.model.embedding_parameters / layout.tp


def _parts(work: Workload, **parts: float) -> MemoryParts:
    tensors = sum(parts.values())
    overhead = tensors * (work.runtime.allocator - 1.0)
    overhead += work.runtime.overhead if work.device.vendor != "cpu" else _CPU_PROCESS
    return MemoryParts(**parts, overhead=overhead)


def _step_temporaries(work: Workload, layout: Layout, parameters: float) -> float:
    """Bytes of the optimizer step's temporaries: foreach kernels copy what is bf16."""
    if work.precision != BF16_PURE or work.method.kind != "full":
        return 0.0
    return work.runtime.step_temporary * parameters / (layout.dp_shard if layout.zero else 1)


def _buffers(work: Workload, layout: Layout, blocks: float, vocabulary: float) -> float:
    """Gathered weights and unreduced gradients under full sharding, else weight gradients."""
    width, block = work.element_bytes, work.model.layer_parameters / layout.tp
    if not _gathers(work, layout):
        # The own trainer's frozen weights have neither a copy nor a gradient.
        frozen = work.runtime.always_wraps and work.method.kind != "full"
        return 0.0 if frozen else width * block
    if layout.pp > 1:
        # A stage stays gathered for all its micro-batches, its gradients unreduced in fp32.
        return (width + (4 if work.method.kind == "full" else 0)) * (blocks + vocabulary)
    if not _sharded(layout):
        return width * (blocks + vocabulary + block)  # the copy that computes, never freed
    return _gathered(work, layout, vocabulary)


def _sharded(layout: Layout) -> bool:
    return layout.zero >= _SHARES_WEIGHTS and layout.dp_shard * layout.cp > 1


def _gathers(work: Workload, layout: Layout) -> bool:
    """Whether blocks compute on a copy that is gathered for them."""
    wraps = work.runtime.always_wraps and work.method.kind == "full"
    return layout.zero >= _SHARES_WEIGHTS and (_sharded(layout) or wraps)


def _whole_at_loss(work: Workload, layout: Layout, buffers: float, vocabulary: float) -> float:
    """Bytes of gathered weights while the own trainer computes the loss.

    Of the blocks only the last one is whole: its backward is next.
    """
    if not (work.runtime.always_wraps and layout.pp == 1 and layout.dp_shard > 1):
        return buffers
    return work.element_bytes * (vocabulary + work.model.layer_parameters / layout.tp)


def _gathered(work: Workload, layout: Layout, vocabulary: float) -> float:
    """Bytes of the blocks and vocabulary matrices that are whole at once under full sharding."""
    block = work.model.layer_parameters / layout.tp
    return work.element_bytes * (vocabulary + work.runtime.gathered_blocks * block)


def _gathered_at_end(work: Workload, layout: Layout, vocabulary: float) -> float:
    """Bytes of what is whole while the first block's backward ends: alone, no other is fetched."""
    if layout.dp_shard * layout.cp > 1:
        return _gathered(work, layout, vocabulary)
    return work.element_bytes * (vocabulary + work.model.layer_parameters / layout.tp)
