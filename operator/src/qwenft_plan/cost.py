"""Seconds of one optimizer step, by part.

Communication is `latency + volume / bandwidth`. What computation hides of it is bounded by the
computation that runs beside it; a constant share of the runtime is never hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenft_plan.activations import tokens
from qwenft_plan.compute import block_time, head_time, optimizer_time
from qwenft_plan.memory import stage_layers, stage_parameters
from qwenft_plan.network import collective, span
from qwenft_plan.states import BF16_PURE, adapter_parameters
from qwenft_plan.workload import Layout, Workload

__all__ = ["TimeParts", "step_time", "tokens_per_second"]

_SHARES_WEIGHTS = 3
_BACKWARD = 2 / 3  # share of computation beside which gradients can be reduced


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
        exposed = self.tensor + self.shard + self.replicate + self.pipeline
        return self.compute + exposed + self.bubble + self.optimizer + self.overhead


def tokens_per_second(work: Workload, layout: Layout) -> float:
    """Return the tokens of the whole run per second."""
    count = layout.global_batch * work.sequence_length
    return count / step_time(work, layout).total


def step_time(work: Workload, layout: Layout) -> TimeParts:
    """Return the parts of one optimizer step of `layout`."""
    block, depth = block_time(work, layout), stage_layers(work, layout)
    each = _tensor(work, layout)
    # A host that is late with its kernels is late with its collectives too: both wait together.
    host = block.host * (1.0 + work.runtime.straggle * (layout.tp - 1))
    micro = _slowest_stage(work, layout, max(block.device, host - each))
    tensor = each * depth
    send = _pipeline_send(work, layout)
    compute = micro * layout.accumulation
    idle = (layout.pp - 1) * _bubble_share(layout) * (micro + tensor + send)
    share = layout.dp_shard * layout.cp if layout.zero else 1
    return TimeParts(
        compute=compute,
        tensor=tensor * layout.accumulation,
        shard=_shard(work, layout, compute),
        replicate=_replicate(work, layout, micro),
        pipeline=send * layout.accumulation,
        bubble=idle,
        optimizer=optimizer_time(work, _trained(work, layout) / share) + _crossing(work, layout),
        overhead=work.runtime.step,
    )


def _crossing(work: Workload, layout: Layout) -> float:
    """Seconds that offloaded shards take over PCIe, beyond one way and back a step.

    Every pass fetches the weights in fp32, every micro-batch brings its gradients; none of it is
    assumed to be hidden.
    """
    if not work.on_host:
        return 0.0
    ways = (3 if layout.dp_shard > 1 else 2) * layout.accumulation - 2
    share = stage_parameters(work, layout, 0) / layout.dp_shard
    return ways * 4.0 * share / work.device.pcie


def _slowest_stage(work: Workload, layout: Layout, block: float) -> float:
    """Seconds of a micro-batch on the slowest stage; the last one has the vocabulary head."""
    depth, head = stage_layers(work, layout), head_time(work, layout)
    last = max(0, work.model.layers - (layout.pp - 1) * depth)
    return max(depth * block, last * block + head / layout.virtual_stages)


def _bubble_share(layout: Layout) -> float:
    """Idle micro-batches per extra stage."""
    if layout.schedule == "naive":
        return float(layout.accumulation)
    if layout.schedule == "ZBVZeroBubble":
        return 0.35
    return 1.0 / layout.virtual_stages


def _tensor(work: Workload, layout: Layout) -> float:
    """Exposed seconds of one block's tensor and context parallel collectives."""
    volume = work.element_bytes * tokens(work, layout) * work.model.hidden
    group = span(work, ranks=layout.tp, stride=1)
    calls = 6 if layout.checkpointing == "full" else 4
    seconds = calls * collective(group, volume, kind="all_reduce") * work.runtime.tp_exposed
    if layout.cp > 1:
        ring = span(work, ranks=layout.cp, stride=layout.tp)
        moved = work.element_bytes * 2 * work.model.kv_width / layout.tp * tokens(work, layout)
        seconds += 0.5 * 3 * collective(ring, moved * (layout.cp - 1), kind="send")
    return seconds


def _shard(work: Workload, layout: Layout, compute: float) -> float:
    """Exposed seconds of gathering weights and scattering gradients over the shard group."""
    ranks = layout.dp_shard * layout.cp
    if ranks == 1 or layout.zero == 0:
        return 0.0
    group = span(work, ranks=ranks, stride=layout.tp)
    whole = stage_parameters(work, layout, 0)
    gather = collective(group, work.element_bytes * whole, kind="gather")
    beside = compute / layout.accumulation
    if layout.zero < _SHARES_WEIGHTS:
        return _exposed(work, gather, beside * (1 - _BACKWARD))
    scatter = collective(group, _gradient_width(work) * _trained(work, layout), kind="gather")
    latency = 3 * (stage_layers(work, layout) - 1) * group.latency
    if layout.pp > 1 or not layout.reshard_after_forward:  # gathered once for all micro-batches
        return _exposed(work, gather + scatter + latency, beside)
    times = layout.accumulation
    return _exposed(work, (2 * gather + scatter + latency) * times, compute)


def _replicate(work: Workload, layout: Layout, micro: float) -> float:
    """Exposed seconds of summing gradients over the replicas, once a step.

    Under full sharding each rank sums its shard with its replicas; below that, whole gradients
    are summed over all data-parallel ranks.
    """
    inner, volume = layout.tp, _gradient_width(work) * _trained(work, layout)
    if layout.zero >= 2:  # noqa: PLR2004 - gradients are shared from here on
        inner *= layout.dp_shard * layout.cp
        ranks, volume = layout.dp_replicate, volume / (layout.dp_shard * layout.cp)
    else:
        ranks = layout.dp * layout.cp
    group = span(work, ranks=ranks, stride=inner)
    kind = "gather" if layout.zero == 1 and layout.dp_replicate == 1 else "all_reduce"
    return _exposed(work, collective(group, volume, kind=kind), micro * _BACKWARD)


def _exposed(work: Workload, seconds: float, beside: float) -> float:
    """Return what computation cannot hide: a fixed share, and all that outlasts it."""
    share = work.runtime.shard_exposed
    return max(share * seconds, seconds - (1 - share) * beside)


def _gradient_width(work: Workload) -> float:
    return 2.0 if work.precision == BF16_PURE else work.runtime.gradient


def _trained(work: Workload, layout: Layout) -> float:
    """Parameters of one rank that have gradients."""
    if work.method.kind == "full":
        return stage_parameters(work, layout, 0)
    return adapter_parameters(work) / layout.tp / layout.pp


def _pipeline_send(work: Workload, layout: Layout) -> float:
    """Seconds of handing activations and gradients to the neighbours, per micro-batch."""
    if layout.pp == 1:
        return 0.0
    stride = work.per_node if layout.world_size > work.per_node else layout.tp * layout.dp
    group = span(work, ranks=2, stride=max(1, stride))
    volume = work.element_bytes * tokens(work, layout) * work.model.hidden / layout.tp
    return 2 * layout.virtual_stages * collective(group, volume, kind="send")
