"""Every plan worth considering for a request, judged.

Numbered steps, as in a scheduler: (1) sizes: nodes and devices a node, (2) degrees that the model
allows, (3) batch cuts, (4) memory, (5) time. Each step that drops something says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

from qwenft_plan.cost import TimeParts, step_time
from qwenft_plan.divisibility import (
    axis_reason,
    batch_reason,
    may_stay_gathered,
    pipeline_reason,
    tensor_reason,
    virtual_stages,
)
from qwenft_plan.hardware import GIB
from qwenft_plan.host import host_bytes
from qwenft_plan.inventory import Group
from qwenft_plan.lessons import NO_LESSONS, UNTAUGHT, Lesson, Lessons, lesson_key
from qwenft_plan.memory import SAFETY, MemoryParts, peak_memory
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import CHECKPOINTING
from qwenft_plan.runtimes import OWN
from qwenft_plan.spec import FinetuneSpec
from qwenft_plan.workload import Layout, Method, Workload

__all__ = ["Judged", "Refused", "judge_all", "method_of", "sizes", "workload_for"]

_MOST_STAGES = 64
_MOST_TENSOR = 8
_MOST_MICRO_BATCH = 64
_WORTH_KEEPING = 1.02  # times as fast, for weights that stay gathered
_PRECISIONS = {"fp32": "fp32", "bf16": "bf16_mixed", "fp8": "fp8"}
_FREE_SCHEDULES = ("1F1B", "Interleaved1F1B")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A layout that fits, with its prediction."""

    group: Group
    nodes: int
    per_node: int
    work: Workload
    layout: Layout
    memory: MemoryParts
    time: TimeParts
    lesson: Lesson = UNTAUGHT

    @property
    def peak(self) -> float:
        """Bytes of the fullest device, corrected by what earlier runs taught."""
        return self.memory.total * self.lesson.memory

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the whole run per second, corrected by what earlier runs taught."""
        tokens = self.layout.global_batch * self.work.sequence_length
        return tokens / self.time.total * self.lesson.speed

    @property
    def device_hours_per_billion_tokens(self) -> float:
        """Device hours that a billion tokens take."""
        return 1e9 / self.tokens_per_second * self.layout.world_size / 3600

    @property
    def mfu(self) -> float:
        """Share of the devices' peak that goes into the model's own FLOPs."""
        device = self.work.device
        # Data sheets give accelerators another peak in fp32; a core has one peak for both.
        slower = self.work.precision == "fp32" and device.vendor != "cpu"
        peak = device.matmul_fp32 if slower else device.peak_bf16
        flops = self.work.model.flops_per_token(self.work.sequence_length)
        return self.tokens_per_second * flops / (peak * self.layout.world_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A layout that exists but does not fit, or a degree that does not exist."""

    nodes: int
    per_node: int
    layout: Layout
    reason: str
    missing: float
    """Bytes over the budget of a device, or of a node; infinite where the degree does not exist."""
    work: Workload | None = None
    on_host: bool = False
    """Whether it is a node's own memory that lacks, for what was to be offloaded."""


def method_of(spec: FinetuneSpec) -> Method:
    """Return what the request trains, as asked for."""
    training = spec.training
    method = Method(
        kind=training.method,
        optimizer=training.optimizer,
        offload_optimizer=training.offload_optimizer,
    )
    lora = training.adapters
    return method if lora is None else replace(method, rank=lora.rank, adapted=lora.target_modules)


def workload_for(spec: FinetuneSpec, model: ModelShape, group: Group, per_node: int) -> Workload:
    """Return what is computed for `spec` on `per_node` devices of each node of `group`."""
    return Workload(
        model=model,
        runtime=OWN,
        device=group.device,
        method=method_of(spec),
        precision=_PRECISIONS[spec.training.precision],
        sequence_length=spec.training.sequence_length,
        per_node=per_node,
        compiled=spec.training.compiles,
    )


def sizes(spec: FinetuneSpec, group: Group) -> tuple[tuple[int, int], ...]:
    """Return the (nodes, devices per node) to consider on `group`, largest first."""
    wanted = spec.resources.processes_per_node if group.is_cpu else spec.resources.gpus_per_node
    least = spec.resources.nodes.min
    most = min(spec.resources.nodes.max or group.count, group.count)
    if (wanted or 1) > group.devices or most < least:
        return ()
    found: list[tuple[int, int]] = []
    for nodes in _counts(least, most):
        each = {wanted or group.devices}
        if nodes == 1 and wanted is None and not group.is_cpu:
            each |= {1 << power for power in range(group.devices.bit_length())} - {0}
        found.extend(
            (nodes, count) for count in sorted(each, reverse=True) if count <= group.devices
        )
    return tuple(found)


def judge_all(
    spec: FinetuneSpec,
    model: ModelShape,
    group: Group,
    nodes: int,
    per_node: int,
    lessons: Lessons = NO_LESSONS,
) -> Iterator[Judged | Refused]:
    """Judge every layout of one size, in a fixed order."""
    work = workload_for(spec, model, group, per_node)
    budget = SAFETY * _device_memory(spec, group, per_node)
    lesson_of = cache(lessons.lesson)
    for pp, tp, dp_replicate, dp_shard in _degrees(spec, model, group, nodes, per_node):
        base = Layout(pp=pp, tp=tp, dp_replicate=dp_replicate, dp_shard=dp_shard)
        batches = _batches(spec, base.dp)
        for schedule in _schedules(spec, pp):
            for checkpointing in _checkpointings(spec):
                too_much = False
                for micro, accumulation in batches:
                    layout = Layout(
                        pp=pp,
                        tp=tp,
                        dp_replicate=dp_replicate,
                        dp_shard=dp_shard,
                        micro_batch=micro,
                        accumulation=accumulation,
                        checkpointing=checkpointing,
                        schedule=schedule,
                        virtual_stages=virtual_stages(schedule, pp),
                    )
                    # A larger micro-batch needs more, unless it spares accumulated gradients.
                    if too_much and accumulation > 1:
                        continue
                    if pipeline_reason(model, pp, schedule, accumulation, checkpointing):
                        continue
                    judge = partial(
                        _judge, work, group=group, nodes=nodes, budget=budget, lesson_of=lesson_of
                    )
                    judged = judge(layout)
                    yield judged
                    yield from _gathered_once(judged, judge)
                    too_much = isinstance(judged, Refused)


def _gathered_once(
    judged: Judged | Refused, judge: Callable[[Layout], Judged | Refused]
) -> Iterator[Judged]:
    """Yield the layout that keeps what it gathers, where that fits and is worth its memory."""
    if isinstance(judged, Refused):
        return
    layout, offload = judged.layout, judged.work.method.offload_optimizer
    if not may_stay_gathered(pp=layout.pp, dp_shard=layout.dp_shard, offload=offload):
        return
    kept = judge(replace(layout, reshard_after_forward=False))
    # Collectives of CPUs take the cores' own time, of short batches more than is predicted here.
    least = judged.tokens_per_second * (1.0 if judged.group.is_cpu else _WORTH_KEEPING)
    if isinstance(kept, Judged) and kept.tokens_per_second >= least:
        yield kept


def _judge(
    work: Workload,
    layout: Layout,
    group: Group,
    nodes: int,
    budget: float,
    lesson_of: Callable[[str], Lesson],
) -> Judged | Refused:
    memory = peak_memory(work, layout)
    host = work.per_node * host_bytes(work, layout) - SAFETY * (group.host_memory or math.inf)
    lesson = lesson_of(lesson_key(work, layout))
    peak = memory.total * lesson.memory
    if host > 0.0 and peak <= budget:
        return Refused(
            nodes=nodes,
            per_node=work.per_node,
            layout=layout,
            reason=_host_reason(work, layout, group),
            missing=host,
            work=work,
            on_host=True,
        )
    if peak > budget:
        return Refused(
            nodes=nodes,
            per_node=work.per_node,
            layout=layout,
            reason=f"needs {peak / GIB:.1f} GiB of {budget / GIB:.1f}" + _learnt(lesson),
            missing=peak - budget,
            work=work,
        )
    return Judged(
        group=group,
        nodes=nodes,
        per_node=work.per_node,
        work=work,
        layout=layout,
        memory=memory,
        time=step_time(work, layout),
        lesson=lesson,
    )


def _host_reason(work: Workload, layout: Layout, group: Group) -> str:
    need = work.per_node * host_bytes(work, layout) / GIB
    usable = SAFETY * (group.host_memory or 0.0) / GIB
    return f"the optimizer needs {need:.1f} GiB of a node's {usable:.1f} GiB of free host memory"


def _learnt(lesson: Lesson) -> str:
    """Say that runs taught a larger need: without them the layout might have counted as fitting."""
    return f" (× {lesson.memory:.2f} by earlier runs)" if lesson.memory > 1.0 else ""


def _device_memory(spec: FinetuneSpec, group: Group, per_node: int) -> float:
    if group.is_cpu and spec.resources.memory_per_node:
        return min(group.device.memory, spec.resources.memory_per_node / per_node)
    return float(group.device.memory)


def _degrees(
    spec: FinetuneSpec, model: ModelShape, group: Group, nodes: int, per_node: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (pp, tp, dp_replicate, dp_shard) whose product is the world size."""
    fixed, world = spec.parallelism, nodes * per_node
    for tp in _tensor_degrees(spec, model, group, per_node):
        for pp in _pipeline_degrees(spec, model, group, world // tp):
            if world % (tp * pp):
                continue
            dp = world // (tp * pp)
            if batch_reason(spec.training.batch_size, dp, fixed.micro_batch_size or 1):
                continue
            for shard in _shard_degrees(spec, dp, max(1, per_node // tp)):
                yield pp, tp, dp // shard, shard


def _tensor_degrees(
    spec: FinetuneSpec, model: ModelShape, group: Group, per_node: int
) -> tuple[int, ...]:
    if spec.parallelism.tensor is not None:
        return (spec.parallelism.tensor,)
    most = 1 if group.is_cpu or _excluded(spec, "tp") else min(per_node, _MOST_TENSOR)
    length = spec.training.sequence_length
    return tuple(
        tp
        for tp in range(1, most + 1)
        if per_node % tp == 0 and not tensor_reason(model, tp, length)
    )


def _pipeline_degrees(
    spec: FinetuneSpec, model: ModelShape, group: Group, ranks: int
) -> tuple[int, ...]:
    if spec.parallelism.pipeline is not None:
        return (spec.parallelism.pipeline,)
    most = 1 if group.is_cpu or _excluded(spec, "pp") else min(ranks, model.layers, _MOST_STAGES)
    whole_batch = spec.training.batch_size
    # The rules of a schedule that the request fixes; all free schedules obey those of 1F1B.
    schedule = spec.parallelism.pipeline_schedule or "1F1B"
    return tuple(
        pp
        for pp in range(1, most + 1)
        if ranks % pp == 0 and not pipeline_reason(model, pp, schedule, whole_batch)
    )


def _excluded(spec: FinetuneSpec, axis: str) -> bool:
    """Whether the method of training leaves no degree of `axis` but one."""
    training = spec.training
    return bool(
        axis_reason(
            training.method,
            axis,
            2,
            offload=training.offload_optimizer,
            precision=training.precision,
        )
    )


def _shard_degrees(spec: FinetuneSpec, dp: int, local: int) -> tuple[int, ...]:
    fixed = spec.parallelism
    if fixed.data_shard is not None:
        shard = fixed.data_shard
        fits = dp % shard == 0 and fixed.data_replicate in (None, dp // shard)
        return (shard,) if fits else ()
    if fixed.data_replicate is not None:
        return (dp // fixed.data_replicate,) if dp % fixed.data_replicate == 0 else ()
    wanted = {1, local, dp, 2 * local, 4 * local, 8 * local, max(1, local // 2), 2, 4}
    return tuple(sorted(shard for shard in wanted if dp % shard == 0))


def _batches(spec: FinetuneSpec, dp: int) -> tuple[tuple[int, int], ...]:
    """Return (micro-batch, accumulation), smallest micro-batch first."""
    each = spec.training.batch_size // dp
    fixed = spec.parallelism.micro_batch_size
    micros = (fixed,) if fixed else _divisors(each, _MOST_MICRO_BATCH)
    return tuple((micro, each // micro) for micro in micros if each % micro == 0)


def _schedules(spec: FinetuneSpec, pp: int) -> tuple[str, ...]:
    if spec.parallelism.pipeline_schedule is not None:
        return (spec.parallelism.pipeline_schedule,)
    return _FREE_SCHEDULES if pp > 1 else ("1F1B",)


def _checkpointings(spec: FinetuneSpec) -> tuple[str, ...]:
    fixed = spec.parallelism.activation_checkpointing
    return (fixed,) if fixed is not None else CHECKPOINTING


def _counts(least: int, most: int) -> tuple[int, ...]:
    """Node counts, largest first: all up to 16, beyond that powers of two and the ends."""
    few = 16
    if most <= few:
        return tuple(range(most, least - 1, -1))
    powers = {1 << power for power in range(most.bit_length())}
    wanted = {least, most, *powers, most // 2, most // 4 * 3}
    return tuple(sorted((count for count in wanted if least <= count <= most), reverse=True))


def _divisors(value: int, most: int) -> tuple[int, ...]:
    return tuple(number for number in range(1, min(value, most) + 1) if value % number == 0)
