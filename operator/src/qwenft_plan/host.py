"""Bytes of a node's own memory that an offloaded optimizer takes.

FSDP keeps the shards of offloaded parameters in pinned memory and brings their gradients there, one
allocation a parameter, and torch rounds each pinned allocation up to a power of two
(`CachingHostAllocator.h`); the two moments are ordinary tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from qwenft_plan.memory import CPU_PROCESS
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import Plan
from qwenft_plan.states import matrices
from qwenft_plan.workload import Layout, Workload

__all__ = ["host_bytes", "pod_host_bytes"]

_FP32 = 4
_PINNED, _PAGED = 2, 2  # fp32 copies of a shard: weights and gradients, two moments


def host_bytes(work: Workload, layout: Layout) -> float:
    """Return the bytes of host memory that one rank takes; 0 where nothing is offloaded to it."""
    return _rank_bytes(work.model, layout.dp_shard) if work.on_host else 0.0


def pod_host_bytes(plan: Plan, model: ModelShape) -> float:
    """Return the same for all ranks of one pod of a plan on accelerators."""
    if not plan.offload_optimizer:
        return 0.0
    return plan.processes_per_node * _rank_bytes(model, plan.dp_shard)


def _rank_bytes(model: ModelShape, shards: int) -> float:
    """Return the bytes of one rank; offloaded plans have no other degree than data parallel."""
    pinned = sum(times * _power_of_two(size) for times, size in _shards(model, shards))
    paged = _FP32 * model.parameters / shards
    return _PINNED * pinned + _PAGED * paged + CPU_PROCESS


def _shards(model: ModelShape, shards: int) -> Iterator[tuple[int, int]]:
    """Return how often a shard of each matrix is there, and its bytes; vectors are too small."""
    vocabulary = (1 if model.tied else 2, (model.vocab, model.hidden))
    for times, (rows, columns) in (
        vocabulary,
        *((model.layers, size) for size in matrices(model).values()),
    ):
        yield times, _FP32 * math.ceil(rows / shards) * columns


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
