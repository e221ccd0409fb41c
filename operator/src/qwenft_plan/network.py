"""Time of collectives: `latency + volume / bandwidth`, ring volumes, links shared in a node.

Ranks are laid out tensor-parallel innermost, then context, shard, replicate and pipeline: the
order of the trainer's mesh. A group that spans nodes shares the node's network with the other
groups of its kind, so its bandwidth is the node's times the ranks it has there over all ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwenft_plan.hardware import Device
from qwenft_plan.workload import Workload

__all__ = ["Span", "collective", "span"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A communicating group: ranks, how many of them share a node, bytes/s and seconds a call."""

    ranks: int
    in_node: int
    bandwidth: float
    latency: float


def span(work: Workload, *, ranks: int, stride: int) -> Span:
    """Return the group of `ranks` ranks that lie `stride` apart on the run's nodes."""
    device, per_node = work.device, work.per_node
    in_node = max(1, min(ranks, per_node // stride if stride < per_node else 1))
    nodes = math.ceil(ranks / in_node)
    if nodes == 1:
        return Span(
            ranks=ranks,
            in_node=in_node,
            bandwidth=device.link * _ring_share(device),
            latency=_latency(work, ranks),
        )
    network = device.network * 0.8 * in_node / per_node
    return Span(
        ranks=ranks,
        in_node=in_node,
        bandwidth=min(device.link * _ring_share(device), network),
        latency=_latency(work, in_node) + device.network_latency * math.log2(nodes),
    )


def collective(group: Span, volume: float, *, kind: str) -> float:
    """Return the seconds of one collective over `volume` bytes (the full tensor).

    `kind`: all_reduce moves 2(n-1)/n of it per rank, gather (all-gather, reduce-scatter) (n-1)/n,
    send all of it.
    """
    if group.ranks == 1 or volume <= 0:
        return 0.0
    passes = {"all_reduce": 2.0, "gather": 1.0}.get(kind)
    factor = 1.0 if passes is None else passes * (group.ranks - 1) / group.ranks
    return group.latency + factor * volume / group.bandwidth


def _latency(work: Workload, ranks: int) -> float:
    """Seconds of an empty collective among `ranks` ranks of a node."""
    runtime = work.runtime
    own = runtime.collective + runtime.collective_rank * max(0, ranks - 2)
    return own + work.device.link_latency


def _ring_share(device: Device) -> float:
    """Share of the printed link rate that collectives reach (A100: 231 of 300 GB/s)."""
    return 0.75 if device.vendor != "cpu" else 1.0
