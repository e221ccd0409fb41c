"""Words and tables for people: what was chosen, why, and what each loser lacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from qwenft_plan.hardware import GIB
from qwenft_plan.inventory import Group, Inventory
from qwenft_plan.lessons import Lesson
from qwenft_plan.model import ModelShape
from qwenft_plan.prices import NO_PRICES, Prices
from qwenft_plan.remedies import remedies
from qwenft_plan.search import Judged, Refused, sizes
from qwenft_plan.spec import FinetuneSpec

if TYPE_CHECKING:
    from qwenft_plan.planner import Planned

__all__ = ["infeasible", "priced", "reason", "slower", "summary", "table"]

_RECOMPUTE = {"none": "", "selective": "selective recompute", "full": "full recompute"}
_PART_WORDS = {
    "compute": "computation",
    "tensor": "tensor-parallel communication",
    "shard": "gathering sharded weights",
    "replicate": "summing gradients over replicas",
    "pipeline": "hand-over between pipeline stages",
    "bubble": "idle pipeline stages",
    "optimizer": "the optimizer",
    "overhead": "fixed costs",
}


def summary(item: Judged | Refused) -> str:
    """Return one line: `2×8 H100-80GB · shard 8 × replicate 2 · micro-batch 4 · full recompute`."""
    layout = item.layout
    device = item.work.device.name if item.work is not None else ""
    parts = [f"{item.nodes}×{item.per_node} {device}".strip(), _data(item)]
    if layout.tp > 1:
        parts.append(f"tensor {layout.tp}")
    if layout.pp > 1:
        parts.append(f"pipeline {layout.pp} ({layout.schedule})")
    parts.append(f"micro-batch {layout.micro_batch}")
    parts.append(_RECOMPUTE[layout.checkpointing])
    parts.append("" if layout.reshard_after_forward else "weights stay gathered")
    return " · ".join(part for part in parts if part)


def reason(best: Judged, fitting: int, refused: int) -> str:
    """Return why the winner won, in one or two sentences with its numbers."""
    memory = best.peak / GIB
    usable = best.work.device.memory / GIB
    text = (
        f"Fastest of {fitting} plans that fit ({refused} did not): "
        f"{best.tokens_per_second:,.0f} tokens/s, {memory:.1f} of {usable:.1f} GiB per device"
    )
    worst, seconds = _largest_loss(best)
    if seconds > 0.02 * best.time.total:
        text += f"; {seconds / best.time.total:.0%} of a step goes into {_PART_WORDS[worst]}"
    if best.nodes > 1 and best.work.device.vendor != "cpu":
        text += f"; assumes {_network(best)}"
    return f"{text}{_learnt(best.lesson)}."


def _learnt(lesson: Lesson) -> str:
    """Return that earlier runs changed the prediction, and by how much."""
    if not lesson.runs and not lesson.kin:
        return ""
    count = lesson.runs or lesson.kin
    word = "earlier run" if count == 1 else "earlier runs"
    other = "" if lesson.runs else " of other shapes"
    return f"; corrected by {count} {word}{other}{_factors(lesson)}"


def _factors(lesson: Lesson) -> str:
    return f" (speed × {lesson.speed:.2f}, memory × {lesson.memory:.2f})"


def _network(best: Judged) -> str:
    """Return the rate that was assumed between nodes, and who says so."""
    rate = best.work.device.network
    source = best.group.network_source or f"the table's for {best.work.device.name}"
    group = best.group
    where = f", over {group.fabric}" if group.fabric else ""
    if group.zone:
        where += f", within zone {group.zone}"
    elif group.zones > 1:
        where += f", across {group.zones} zones"
    return f"{rate / 1e9:.3g} GB/s between nodes ({rate * 8 / 1e9:,.4g} Gbit/s, {source}{where})"


def slower(best: Judged, item: Judged) -> str:
    """Return the one reason why `item` lost against `best`."""
    lag = 1 - item.tokens_per_second / best.tokens_per_second
    if lag < 0.005:  # noqa: PLR2004 - a tie to the eye
        return "as fast, but less simple"
    if item.time.total <= best.time.total * item.layout.global_batch / best.layout.global_batch:
        return f"{lag:.0%} slower by earlier runs{_factors(item.lesson)}"
    part = max(
        (field.name for field in fields(item.time)),
        key=lambda name: getattr(item.time, name) - getattr(best.time, name),
    )
    return f"{lag:.0%} slower: {_PART_WORDS[part]} takes {getattr(item.time, part):.2f} s of a step"


def infeasible(
    spec: FinetuneSpec,
    model: ModelShape,
    inventory: Inventory,
    groups: Sequence[Group],
    refused: Sequence[Refused],
) -> tuple[str, ...]:
    """Return why nothing fits, the most telling first."""
    if not inventory.nodes or not groups:
        return (_no_nodes(spec, inventory),)
    if not any(sizes(spec, group) for group in groups):
        return (_too_few(spec, inventory),)
    if not refused:
        return (_no_degrees(spec, model, inventory),)
    # What only the host has no room for is nearer than what no device has.
    nearest = min(refused, key=lambda item: (not item.on_host, item.missing))
    missing = f"{summary(nearest)}: {nearest.reason} ({nearest.missing / GIB:.1f} GiB too much)"
    return (missing, *remedies(spec, model, groups, nearest))


def priced(planned: Planned, prices: Prices) -> str:
    """Return the plan's reason, with what it costs where there is a price."""
    if prices.amount(planned.chosen) is None:
        return planned.reason
    return f"{planned.reason} Takes {prices.told(planned.chosen, short=True)}."


def table(planned: Planned, prices: Prices = NO_PRICES) -> str:
    """Return the winner, its prediction, cost and the alternatives as plain text."""
    best = planned.chosen
    lines = [
        planned.summary,
        planned.reason,
        "",
        f"  predicted   {_prediction(planned)}",
        f"  memory GiB  {_parts(best.memory, GIB)}",
        f"  step s      {_parts(best.time, 1.0)}",
        f"  cost        {prices.told(best)}",
    ]
    if planned.alternatives:
        width = max(len(item.summary) for item in planned.alternatives)
        lines += ["", "  alternatives"]
        for item in planned.alternatives:
            lines.append(f"    {item.summary:<{width}}  {item.rejected}")
            if item.judged is not None:
                lines += [
                    f"      memory GiB  {_parts(item.judged.memory, GIB)}",
                    f"      step s      {_parts(item.judged.time, 1.0)}",
                    f"      cost        {prices.told(item.judged)}",
                ]
    return "\n".join(lines) + "\n"


def _prediction(planned: Planned) -> str:
    predicted = planned.predicted
    return (
        f"{predicted.memory_gib:.1f} GiB per device, {predicted.tokens_per_second:,.0f} tokens/s, "
        f"MFU {predicted.mfu:.1%}"
    )


def _data(item: Judged | Refused) -> str:
    layout = item.layout
    if layout.dp_shard > 1 and layout.dp_replicate > 1:
        return f"shard {layout.dp_shard} × replicate {layout.dp_replicate}"
    if layout.dp_shard > 1:
        return f"shard {layout.dp_shard}"
    return f"replicate {layout.dp_replicate}" if layout.dp_replicate > 1 else ""


def _parts(parts: object, unit: float) -> str:
    names = [field.name for field in fields(parts)]  # type: ignore[arg-type]
    values = [(name, getattr(parts, name) / unit) for name in names]
    return " · ".join(f"{name} {value:.2f}" for name, value in values if value >= 0.005)  # noqa: PLR2004


def _largest_loss(best: Judged) -> tuple[str, float]:
    losses = {
        field.name: getattr(best.time, field.name)
        for field in fields(best.time)
        if field.name != "compute"
    }
    name = max(losses, key=lambda key: losses[key])
    return name, losses[name]


def _no_nodes(spec: FinetuneSpec, inventory: Inventory) -> str:
    if not inventory.nodes:
        return "no node is ready, schedulable and matched by the node selector"
    if not any(node.devices for node in inventory.nodes):
        return f"no free device among {inventory.describe()}"
    kind = "GPU" if spec.resources.gpus_per_node is not None else "CPU"
    return f"no {kind} node among {inventory.describe()}"


def _too_few(spec: FinetuneSpec, inventory: Inventory) -> str:
    wanted = spec.resources.gpus_per_node or spec.resources.processes_per_node or 1
    least = spec.resources.nodes.min
    return (
        f"needs at least {_counted(least, 'node')} with {_counted(wanted, 'free device')} each; "
        f"the inventory is {inventory.describe()}"
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _no_degrees(spec: FinetuneSpec, model: ModelShape, inventory: Inventory) -> str:
    fixed = spec.parallelism
    named = {
        "dataReplicate": fixed.data_replicate,
        "dataShard": fixed.data_shard,
        "tensor": fixed.tensor,
        "pipeline": fixed.pipeline,
        "microBatchSize": fixed.micro_batch_size,
    }
    asked = ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)
    return (
        f"no degrees multiply to the devices of {inventory.describe()} for {model.name} with "
        f"batch {spec.training.batch_size}" + (f" and {asked}" if asked else "")
    )
