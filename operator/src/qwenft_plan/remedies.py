"""What would fit when nothing does: the smallest change or the smallest inventory.

The request is never changed in silence; these are sentences for the person who made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qwenft_plan.divisibility import packing_reason
from qwenft_plan.hardware import GIB
from qwenft_plan.host import host_bytes
from qwenft_plan.inventory import Group
from qwenft_plan.memory import SAFETY, peak_memory
from qwenft_plan.model import ModelShape
from qwenft_plan.search import Judged, Refused, judge_all
from qwenft_plan.spec import FinetuneSpec
from qwenft_plan.workload import Layout, Workload

__all__ = ["remedies"]

_MOST_NODES = 64
_SHORTEST = 512


def remedies(
    spec: FinetuneSpec, model: ModelShape, groups: Sequence[Group], nearest: Refused
) -> tuple[str, ...]:
    """Return the changes that would make `nearest`, the plan that misses least, fit."""
    found = [
        *_methods(spec, model, groups, nearest),
        _shorter(nearest),
        _larger(spec, model, groups),
    ]
    texts = tuple(text for text in found if text)
    return (f"what would fit: {'; '.join(texts)}",) if texts else ()


def _budget(nearest: Refused, work: Workload) -> float:
    return peak_memory(work, nearest.layout).total - nearest.missing


def _fits(work: Workload, layout: Layout, budget: float) -> bool:
    return peak_memory(work, layout).total <= budget


def _methods(
    spec: FinetuneSpec, model: ModelShape, groups: Sequence[Group], nearest: Refused
) -> list[str]:
    """Lighter methods of training on the same devices, each with what its leanest plan needs."""
    if nearest.work is None or spec.trainer.script is not None:
        return []
    found = []
    for name, field, changes in _lighter(spec):
        changed = replace(spec, training=replace(spec.training, **changes))
        if changes.get("method") == "qlora" and packing_reason(model):
            continue
        need = _leanest(changed, model, groups, nearest)
        if need:
            found.append(f"{name} ({need}; {field})")
    return found


def _lighter(spec: FinetuneSpec) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the methods that spare memory: name, field to set, what changes of `training`."""
    training = spec.training
    plain: dict[str, Any] = {"optimizer": "adamw", "offload_optimizer": False}
    found: list[tuple[str, str, dict[str, Any]]] = []
    if training.method == "full":
        found.append(("LoRA", "training.method: lora", {"method": "lora", **plain}))
        if training.optimizer == "adamw" and not training.offload_optimizer:
            eight = {"optimizer": "adamw8bit"}
            found.append(("8-bit Adam", "training.optimizer: adamw8bit", eight))
        if not training.offload_optimizer:
            host = {"optimizer": "adamw", "offload_optimizer": True}
            name = "an optimizer offloaded to the host"
            found.append((name, "training.offloadOptimizer: true", host))
    if training.method != "qlora":
        found.append(("QLoRA", "training.method: qlora", {"method": "qlora", **plain}))
    return found


def _leanest(
    spec: FinetuneSpec, model: ModelShape, groups: Sequence[Group], nearest: Refused
) -> str:
    """Return the memory of the plan that needs least on the devices of `nearest`; empty: none."""
    work = nearest.work
    kinds = [group for group in groups if work is not None and group.device == work.device]
    judged = [
        item
        for group in kinds[:1]
        for item in judge_all(spec, model, group, nearest.nodes, nearest.per_node)
        if isinstance(item, Judged)
    ]
    if not judged:
        return ""
    least = min(judged, key=lambda item: item.peak)
    host = least.per_node * host_bytes(least.work, least.layout) / GIB
    return f"{least.peak / GIB:.0f} GiB" + (f", {host:.0f} GiB of a node's own" if host else "")


def _shorter(nearest: Refused) -> str:
    """Shorter sequences on the same devices."""
    if nearest.work is None or nearest.on_host:
        return ""
    budget, length = _budget(nearest, nearest.work), nearest.work.sequence_length // 2
    while length >= _SHORTEST:
        shorter = replace(nearest.work, sequence_length=length)
        if _fits(shorter, nearest.layout, budget):
            return f"sequences of {length} tokens"
        length //= 2
    return ""


def _larger(spec: FinetuneSpec, model: ModelShape, groups: Sequence[Group]) -> str:
    """Return the smallest number of the largest nodes at hand that would hold the request."""
    group = max(groups, key=lambda group: (group.device.memory * group.devices, group.count))
    per_node = spec.resources.gpus_per_node or spec.resources.processes_per_node or group.devices
    nodes = 1
    while nodes <= _MOST_NODES:
        bigger = replace(group, count=nodes)
        judged = judge_all(spec, model, bigger, nodes, per_node)
        if any(isinstance(item, Judged) for item in judged):
            most = spec.resources.nodes.max
            raised = "" if most is None or nodes <= most else " (and a larger resources.nodes.max)"
            return f"{nodes}×{per_node} {group.device.name}{raised}"
        nodes *= 2
    usable = SAFETY * group.device.memory / GIB
    return f"devices with more than {usable:.0f} GiB usable"
