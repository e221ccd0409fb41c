"""What would fit when nothing does: the smallest change or the smallest inventory.

The request is never changed in silence; these are sentences for the person who made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwenft_plan.hardware import GIB
from qwenft_plan.inventory import Group
from qwenft_plan.memory import SAFETY, peak_memory
from qwenft_plan.model import ModelShape
from qwenft_plan.search import Judged, Refused, judge_all
from qwenft_plan.spec import FinetuneSpec
from qwenft_plan.workload import Layout, Workload

__all__ = ["remedies"]

_MOST_NODES = 64
_ELSEWHERE = "with another trainer"
_SHORTEST = 512


def remedies(
    spec: FinetuneSpec, model: ModelShape, groups: Sequence[Group], nearest: Refused
) -> tuple[str, ...]:
    """Return the changes that would make `nearest`, the plan that misses least, fit."""
    found = [*_methods(nearest), _shorter(nearest), _larger(spec, model, groups)]
    texts = tuple(text for text in found if text)
    return (f"what would fit: {'; '.join(texts)}",) if texts else ()


def _budget(nearest: Refused, work: Workload) -> float:
    return peak_memory(work, nearest.layout).total - nearest.missing


def _fits(work: Workload, layout: Layout, budget: float) -> bool:
    return peak_memory(work, layout).total <= budget


def _methods(nearest: Refused) -> list[str]:
    """Lighter methods of training on the same devices."""
    work = nearest.work
    if work is None or work.method.kind != "full":
        return []
    budget = _budget(nearest, work)
    methods = (
        ("LoRA", "training.method: lora", replace(work.method, kind="lora")),
        ("8-bit Adam", _ELSEWHERE, replace(work.method, optimizer="adamw8bit")),
        (
            "an optimizer offloaded to the host",
            _ELSEWHERE,
            replace(work.method, offload_optimizer=True),
        ),
        ("QLoRA", _ELSEWHERE, replace(work.method, kind="qlora")),
    )
    found = []
    for name, how, method in methods:
        changed = replace(work, method=method)
        if _fits(changed, nearest.layout, budget):
            need = peak_memory(changed, nearest.layout).total / GIB
            found.append(f"{name} ({need:.0f} GiB; {how})")
    return found


def _shorter(nearest: Refused) -> str:
    """Shorter sequences on the same devices."""
    if nearest.work is None:
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
