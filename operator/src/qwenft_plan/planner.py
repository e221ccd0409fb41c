"""The decision: judge every layout, take the fastest that fits, say why.

Pure: equal input gives byte-equal output. Order and names of nodes never matter. Among plans within
two percent of the fastest the simplest wins: fewest devices, no pipeline, no tensor parallelism,
least recomputation, no accelerator's memory full of gathered weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qwenft_plan import explain
from qwenft_plan.divisibility import (
    axis_reason,
    batch_reason,
    packing_reason,
    pipeline_reason,
    tensor_reason,
)
from qwenft_plan.errors import Infeasible, SpecError
from qwenft_plan.hardware import GIB
from qwenft_plan.inventory import Group, Inventory
from qwenft_plan.lessons import NO_LESSONS, Lessons
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import CHECKPOINTING, SCHEDULES, Plan, Predicted
from qwenft_plan.search import Judged, Refused, judge_all, sizes
from qwenft_plan.spec import FinetuneSpec

__all__ = ["Alternative", "Planned", "plan"]

_CLOSE = 0.98
_SHOWN = 6  # five that fit and the nearest that does not


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """A plan that lost and the one reason why."""

    summary: str
    rejected: str
    judged: Judged | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """The chosen plan with its prediction, its reason and what it was compared with."""

    plan: Plan
    summary: str
    reason: str
    predicted: Predicted
    alternatives: tuple[Alternative, ...]
    chosen: Judged


def plan(
    *,
    spec: FinetuneSpec,
    model: ModelShape,
    inventory: Inventory,
    lessons: Lessons = NO_LESSONS,
) -> Planned:
    """Choose the plan for `spec` on `inventory`, corrected by `lessons` of earlier runs.

    Raises `SpecError` when a fixed degree can never work for this model and batch, `Infeasible`
    with numbers when nothing fits the nodes at hand.
    """
    check_fixed(spec, model)
    groups = _able(spec, _groups(spec, inventory))
    fitting: list[Judged] = []
    refused: list[Refused] = []
    for group in groups:
        for nodes, per_node in sizes(spec, group):
            for judged in judge_all(spec, model, group, nodes, per_node, lessons):
                if isinstance(judged, Judged):
                    fitting.append(judged)
                else:
                    refused.append(judged)
    if not fitting:
        raise Infeasible(explain.infeasible(spec, model, inventory, groups, refused))
    best = _best(fitting)
    predicted = _predicted(best)
    return Planned(
        plan=_plan_of(spec, best, predicted),
        summary=explain.summary(best),
        reason=explain.reason(best, len(fitting), len(refused)),
        predicted=predicted,
        alternatives=_alternatives(best, fitting, refused),
        chosen=best,
    )


def check_fixed(spec: FinetuneSpec, model: ModelShape) -> None:
    """Refuse, with its path, every fixed degree that no inventory could satisfy."""
    fixed, training = spec.parallelism, spec.training
    at = "spec.parallelism"
    if training.sequence_length > model.max_positions:
        message = (
            f"{training.sequence_length} tokens exceed the {model.max_positions} positions "
            f"of {model.name}"
        )
        raise SpecError("spec.training.sequenceLength", message)
    _check_method(spec, model)
    if fixed.tensor is not None:
        _refuse(f"{at}.tensor", tensor_reason(model, fixed.tensor, training.sequence_length))
    micro, dp = fixed.micro_batch_size or 1, (fixed.data_replicate or 1) * (fixed.data_shard or 1)
    if dp > 1:
        _refuse(f"{at}.{_data_field(spec)}", batch_reason(training.batch_size, dp, 1))
    if fixed.micro_batch_size is not None:
        _refuse(f"{at}.microBatchSize", batch_reason(training.batch_size, dp, micro))
    if fixed.pipeline is not None:
        schedule = fixed.pipeline_schedule or "1F1B"
        most = training.batch_size // dp // micro
        checkpointing = fixed.activation_checkpointing or "none"
        reason = pipeline_reason(model, fixed.pipeline, schedule, most, checkpointing)
        _refuse(f"{at}.pipeline", reason)


def _check_method(spec: FinetuneSpec, model: ModelShape) -> None:
    fixed, training = spec.parallelism, spec.training
    if training.method == "qlora":
        _refuse("spec.training.method", packing_reason(model))
    if training.compiles and fixed.pipeline_schedule == "ZBVZeroBubble":
        message = "layers that run backward in two halves (ZBVZeroBubble) cannot be compiled"
        _refuse("spec.training.compile", message)
    for field, axis, degree in (
        ("tensor", "tp", fixed.tensor),
        ("pipeline", "pp", fixed.pipeline),
    ):
        reason = axis_reason(
            training.method,
            axis,
            degree or 1,
            offload=training.offload_optimizer,
            precision=training.precision,
        )
        _refuse(f"spec.parallelism.{field}", reason)


def _data_field(spec: FinetuneSpec) -> str:
    return "dataShard" if (spec.parallelism.data_shard or 1) > 1 else "dataReplicate"


def _refuse(path: str, reason: str | None) -> None:
    if reason is not None:
        raise SpecError(path, reason)


def _groups(spec: FinetuneSpec, inventory: Inventory) -> tuple[Group, ...]:
    """GPU groups where there are any, CPU groups where asked for or nothing else exists."""
    groups = inventory.groups()
    gpus = tuple(group for group in groups if not group.is_cpu)
    cpus = tuple(group for group in groups if group.is_cpu)
    if spec.resources.gpus_per_node is not None:
        return gpus
    if spec.resources.processes_per_node is not None:
        return cpus
    return gpus or cpus


def _able(spec: FinetuneSpec, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Leave out groups without fp8 where that is asked for; raises `Infeasible` if none is left."""
    if spec.training.precision != "fp8":
        return groups
    able = tuple(group for group in groups if group.device.has_fp8)
    if groups and not able:
        names = ", ".join(sorted({group.device.name for group in groups}))
        message = (
            f"spec.training.precision: {names} cannot multiply in fp8 faster than in bf16; take "
            "bf16, or nodes with H100, H200, B200, L4, L40S or MI300X"
        )
        raise Infeasible((message,))
    return able


def _best(fitting: Iterable[Judged]) -> Judged:
    judged = list(fitting)
    fastest = max(item.tokens_per_second for item in judged)
    close = [item for item in judged if item.tokens_per_second >= _CLOSE * fastest]
    return min(close, key=_simplicity)


def _simplicity(item: Judged) -> tuple[object, ...]:
    layout = item.layout
    return (
        layout.world_size,
        item.nodes,
        layout.pp,
        layout.tp,
        CHECKPOINTING.index(layout.checkpointing),
        SCHEDULES.index(layout.schedule),
        not layout.reshard_after_forward and not item.group.is_cpu,
        -item.tokens_per_second,
        bool(item.group.zone) != (item.nodes > 1),  # one pod may go anywhere, several stay together
        layout.dp_shard,
        layout.micro_batch,
        item.group.device.name,
    )


def _predicted(best: Judged) -> Predicted:
    return Predicted(
        memory_gib=_significant(best.peak / GIB),
        tokens_per_second=_significant(best.tokens_per_second),
        mfu=_significant(best.mfu),
    )


def _significant(value: float) -> float:
    """Four digits: a tiny model's memory must not become nothing."""
    return float(f"{value:.4g}")


def _plan_of(spec: FinetuneSpec, best: Judged, predicted: Predicted) -> Plan:
    layout = best.layout
    return Plan(
        world_size=layout.world_size,
        nodes=best.nodes,
        processes_per_node=best.per_node,
        pp=layout.pp,
        dp_replicate=layout.dp_replicate,
        dp_shard=layout.dp_shard,
        tp=layout.tp,
        micro_batch_size=layout.micro_batch,
        gradient_accumulation_steps=layout.accumulation,
        global_batch_size=spec.training.batch_size,
        sequence_length=spec.training.sequence_length,
        activation_checkpointing=layout.checkpointing,
        pipeline_schedule=layout.schedule,
        precision=spec.training.precision,
        method=spec.training.method,
        optimizer=spec.training.optimizer,
        offload_optimizer=spec.training.offload_optimizer,
        reshard_after_forward=layout.reshard_after_forward,
        compile=spec.training.compiles,
        predicted=predicted,
    )


def _shape(item: Judged | Refused) -> tuple[int, ...]:
    layout = item.layout
    return (item.nodes, item.per_node, layout.pp, layout.tp, layout.dp_shard)


def _alternatives(
    best: Judged, fitting: list[Judged], refused: list[Refused]
) -> tuple[Alternative, ...]:
    """Return the best of each other shape that fits, then the nearest that does not."""
    seen = {_shape(best)}
    shown: list[Alternative] = []
    for item in sorted(fitting, key=lambda item: (-item.tokens_per_second, _simplicity(item))):
        if _shape(item) not in seen and len(shown) < _SHOWN - 1:
            seen.add(_shape(item))
            shown.append(
                Alternative(
                    summary=explain.summary(item), rejected=explain.slower(best, item), judged=item
                )
            )
    fits = {_shape(item) for item in fitting}
    for lost in sorted(refused, key=lambda item: (item.missing, _shape(item))):
        if _shape(lost) not in seen | fits and len(shown) < _SHOWN:
            seen.add(_shape(lost))
            shown.append(Alternative(summary=explain.summary(lost), rejected=lost.reason))
    return tuple(shown)
