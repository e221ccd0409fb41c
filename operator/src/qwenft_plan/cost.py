"""Seconds of one optimizer step, by part.

A matrix multiplication takes its FLOPs at the achievable rate plus its bytes through HBM: the sum,
not the maximum, which is how small and narrow ones lose efficiency. Everything else in a block is
bytes through HBM. A block never runs faster than the host can start its kernels. Communication is
`latency + volume / bandwidth`; what computation hides is a constant of the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from qwenft_plan.memory import stage_layers, stage_parameters, tokens
from qwenft_plan.network import collective, span
from qwenft_plan.workload import Layout, Workload

__all__ = ["TimeParts", "step_time", "tokens_per_second"]

_FULL = 3  # the level of sharding that also shares the weights


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeParts:
    """Seconds of one optimizer step on the slowest rank; communication as far as it is exposed."""

    compute: float
    tensor: float
    shard: float
    replicate: float
    pipeline: float
    bubble: float
    optimizer: float
    overhead: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """Seconds of one block for one micro-batch."""

    forward: float
    backward: float


def tokens_per_second(work: Workload, layout: Layout) -> float:
    """Return the tokens of the whole run per second."""
    count = layout.global_batch * work.sequence_length
    return count / step_time(work, layout).total


def step_time(work: Workload, layout: Layout) -> TimeParts:
    """Return the parts of one optimizer step of `layout`."""
    block, depth = _block(work, layout), stage_layers(work, layout)
    head = _head(work, layout)
    micro = depth * (block.forward + block.backward)
    slowest = micro + (head if layout.pp == 1 else head * _head_share(layout))
    tensor = _tensor(work, layout) * depth
    hidden = slowest * layout.accumulation
    send = _pipeline_send(work, layout)
    bubble = (layout.pp - 1) * _bubble_share(layout) * (slowest + tensor + send)
    return TimeParts(
        compute=hidden,
        tensor=tensor * layout.accumulation,
        shard=_shard(work, layout, hidden),
        replicate=_replicate(work, layout, hidden),
        pipeline=send * layout.accumulation,
        bubble=bubble,
        optimizer=_optimizer(work, layout),
        overhead=work.runtime.step,
    )


def matmul_rate(work: Workload) -> float:
    """Return the FLOP/s of large matrix multiplications inside this runtime's model."""
    device, share = work.device, work.runtime.matmul
    if work.precision == "fp32":
        return device.matmul_fp32 * share
    if work.precision == "fp8":
        return device.matmul_fp8 * share
    return device.matmul_bf16 * share


def _product(work: Workload, rows: float, columns: float, inner: float) -> float:
    """Seconds of a (rows × inner) · (inner × columns) multiplication."""
    flops = 2.0 * rows * columns * inner / matmul_rate(work)
    moved = work.element_bytes * (rows * inner + inner * columns + rows * columns)
    return flops + moved / work.device.hbm


def _block(work: Workload, layout: Layout) -> _Block:
    rows, tp, model = tokens(work, layout), layout.tp, work.model
    products = (
        _product(work, rows, (model.attention_width + 2 * model.kv_width) / tp, model.hidden)
        + _product(work, rows, model.hidden, model.attention_width / tp)
        + _product(work, rows, (2 if model.gated else 1) * model.ffn / tp, model.hidden)
        + _product(work, rows, model.hidden, model.ffn / tp)
    )
    attention = _attention(work, layout)
    traffic = _traffic(work, layout)
    launch = work.runtime.launch * work.device.launch_factor
    plain = products + attention + traffic / 3
    forward = max(plain, launch)
    backward = 2 * products + 2.5 * attention + traffic * 2 / 3
    backward += {"none": 0.0, "selective": attention + traffic / 3, "full": plain}[
        layout.checkpointing
    ]
    slow_host = launch * {"none": 1.3, "selective": 1.6, "full": 2.3}[layout.checkpointing]
    return _Block(forward=forward, backward=max(backward, slow_host))


def _attention(work: Workload, layout: Layout) -> float:
    """Forward seconds of the attention core."""
    model, rows = work.model, tokens(work, layout)
    flash = work.runtime.flash if work.flash_attention is None else work.flash_attention
    share = work.runtime.attention if work.precision != "fp32" else 0.5
    rate = min(work.device.matmul_bf16, matmul_rate(work)) * share
    flops = 4.0 * rows * work.sequence_length * model.attention_width / layout.tp
    if flash:
        return flops / 2 / rate
    scores = rows * work.sequence_length * model.heads / layout.tp
    return flops / rate + 14.0 * scores / work.device.hbm


def _traffic(work: Workload, layout: Layout) -> float:
    """Forward and backward seconds of norms, activations, residuals: bytes through HBM."""
    model, runtime, rows = work.model, work.runtime, tokens(work, layout)
    split = layout.tp if runtime.sequence_parallel else 1
    each = (
        runtime.hidden_traffic * model.hidden / split + runtime.ffn_traffic * model.ffn / layout.tp
    )
    if work.compiled:
        each *= 0.5
    return each * rows * (work.element_bytes / 2) / work.device.hbm


def _head(work: Workload, layout: Layout) -> float:
    """Seconds of vocabulary projection and loss, forward and backward."""
    rows, columns = tokens(work, layout), work.model.vocab / layout.tp
    loss = 2.0 * work.runtime.logit * rows * columns / work.device.hbm
    return 3 * _product(work, rows, columns, work.model.hidden) + loss


def _head_share(layout: Layout) -> float:
    """How much of the head lengthens the pipeline: the last stage is the slowest."""
    return 1.0 if layout.virtual_stages == 1 else 1.0 / layout.virtual_stages


def _bubble_share(layout: Layout) -> float:
    """Idle micro-batches per extra stage."""
    if layout.schedule == "ZBVZeroBubble":
        return 0.35
    return 1.0 / layout.virtual_stages


def _tensor(work: Workload, layout: Layout) -> float:
    """Exposed seconds of one block's tensor and context parallel collectives."""
    volume = work.element_bytes * tokens(work, layout) * work.model.hidden
    group = span(work.device, ranks=layout.tp, stride=1, per_node=work.per_node)
    calls = 6 if layout.checkpointing == "full" else 4
    seconds = calls * collective(group, volume, kind="all_reduce") * work.runtime.tp_exposed
    if layout.cp > 1:
        ring = span(work.device, ranks=layout.cp, stride=layout.tp, per_node=work.per_node)
        moved = work.element_bytes * 2 * work.model.kv_width / layout.tp * tokens(work, layout)
        seconds += 0.5 * 3 * collective(ring, moved * (layout.cp - 1), kind="send")
    return seconds


def _shard(work: Workload, layout: Layout, hidden: float) -> float:
    """Exposed seconds of gathering weights and scattering gradients over the shard group."""
    ranks = layout.dp_shard * layout.cp
    if ranks == 1:
        return 0.0
    group = span(work.device, ranks=ranks, stride=layout.tp, per_node=work.per_node)
    parameters = _trained(work, layout)
    whole = stage_parameters(work, layout, 0)
    wide = 4 if work.precision != "bf16_pure" else 2
    scatter = collective(group, wide * parameters, kind="gather")
    gather = collective(group, work.element_bytes * whole, kind="gather")
    if layout.zero < _FULL:
        return _exposed(work, scatter + gather, hidden / max(layout.accumulation, 1))
    layers = stage_layers(work, layout) - 1
    once = 2 * gather + scatter + 3 * layers * group.latency
    return _exposed(work, once * layout.accumulation, hidden)


def _replicate(work: Workload, layout: Layout, hidden: float) -> float:
    """Exposed seconds of summing gradients over the replicas, once a step."""
    stride = layout.tp * layout.cp * layout.dp_shard
    group = span(work.device, ranks=layout.dp_replicate, stride=stride, per_node=work.per_node)
    wide = 4 if work.precision != "bf16_pure" else 2
    share = layout.dp_shard * layout.cp if layout.zero >= 2 else 1  # noqa: PLR2004
    seconds = collective(group, wide * _trained(work, layout) / share, kind="all_reduce")
    return _exposed(work, seconds, hidden / max(layout.accumulation, 1))


def _exposed(work: Workload, seconds: float, hidden: float) -> float:
    """Return what computation cannot hide: a fixed share, and all that outlasts the computation."""
    share = work.runtime.shard_exposed
    return max(share * seconds, seconds - (1 - share) * hidden)


def _trained(work: Workload, layout: Layout) -> float:
    """Parameters of one rank that have gradients."""
    whole = stage_parameters(work, layout, 0)
    return whole if work.method.kind == "full" else 0.01 * whole


def _pipeline_send(work: Workload, layout: Layout) -> float:
    """Seconds of handing activations and gradients to the neighbours, per micro-batch."""
    if layout.pp == 1:
        return 0.0
    stride = work.per_node if layout.world_size > work.per_node else layout.tp * layout.dp
    group = span(work.device, ranks=2, stride=max(1, stride), per_node=work.per_node)
    volume = work.element_bytes * tokens(work, layout) * work.model.hidden / layout.tp
    return 2 * layout.virtual_stages * collective(group, volume, kind="send")


def _optimizer(work: Workload, layout: Layout) -> float:
    """Seconds of the optimizer step: weights, gradients and moments through HBM or PCIe."""
    share = layout.dp_shard * layout.cp if layout.zero else 1
    parameters = _trained(work, layout) / share
    if work.method.offload_optimizer:
        return parameters * (4 / work.device.pcie * 2 + 28 / 40e9)
    return parameters * 28 / work.device.hbm
