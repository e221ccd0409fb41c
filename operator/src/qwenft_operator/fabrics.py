"""Which network the pods of a run talk over: what nodes offer, what pods ask for. Pure.

A pod reaches its peers over its own interface with TCP, whatever cards the node has. Faster cards
are devices, which a device plugin offers as an extended resource and a pod has to ask for. Adding a
fabric is adding a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qwenft_operator.quantities import amount
from qwenft_plan.inventory import PLAIN
from qwenft_plan.sections import Network

__all__ = ["FABRICS", "PLAIN_RATE", "Fabric", "Networks", "Wire", "Wiring", "wire_of"]

PLAIN_RATE = 12.5e9
"""Bytes/s that are assumed of a pod's own interface where nobody gives a rate: 100 Gbit/s, one port
of a current GPU server's Ethernet. A slower network that is known of counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fabric:
    """One kind of network cards that pods can ask for."""

    name: str
    title: str
    pattern: str
    """What the extended resource is called, a regular expression."""
    whole: bool
    """Whether a unit is a card of the pod's own: a pod takes its GPUs' share. Else one is all."""
    attached: bool = False
    """Whether the card reaches the pod by an annotation that only the cluster's admin knows."""
    many: bool = True
    """Whether its resource has one name here and another there: then they do not join."""
    env: tuple[tuple[str, str], ...] = ()
    source: str

    def called(self, resources: Iterable[str]) -> str:
        """Return the title, with the names where several fabrics could be meant by it."""
        return f"{self.title} ({', '.join(resources)})" if self.many else self.title


FABRICS = (
    Fabric(
        name="efa",
        title="EFA",
        pattern=r"vpc\.amazonaws\.com/efa",
        whole=True,
        many=False,
        # Huge pages would have to be asked for: a container without is killed when it touches one.
        env=(("FI_PROVIDER", "efa"), ("FI_EFA_USE_HUGE_PAGE", "0")),
        source="EKS user guide, machine learning with EFA; libfabric, fi_efa(7)",
    ),
    Fabric(
        name="rdma",
        title="InfiniBand or RoCE",
        pattern=r"rdma/[\w.-]+",
        whole=False,
        source="Mellanox/k8s-rdma-shared-dev-plugin, README",
    ),
    Fabric(
        name="sriov",
        title="InfiniBand or RoCE functions of the pod's own",
        pattern=r"nvidia\.com/(hostdev|mlnxnics|sriov[\w.-]*|[\w.-]*rdma[\w.-]*)|openshift\.io/[\w.-]*(rdma|mlnx)[\w.-]*",
        whole=True,
        attached=True,
        source="NVIDIA network operator and k8snetworkplumbingwg/sriov-network-device-plugin",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Networks:
    """What the operator's settings say about networks."""

    rates: Mapping[str, float] = field(default_factory=dict)
    """Bytes/s between nodes, by instance type (lower case) or device name."""
    wish: Network = field(default_factory=Network)
    """The fabric of runs that name none."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Annotations of pods on several nodes, as those that attach cards to them."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables of pods on several nodes."""

    def wish_of(self, own: Network) -> Network:
        """Return the run's own wish, else the settings'."""
        return self.wish if own == Network() else own


@dataclass(frozen=True, kw_only=True, slots=True)
class Wire:
    """What one node offers of a fabric."""

    fabric: str = PLAIN
    """Title of the fabric."""
    counts: tuple[tuple[str, int, int], ...] = ()
    """Resource, units that a pod with all accelerators asks for, units that are free; sorted."""
    devices: int = 0
    """Accelerators that share the units; 0: a pod asks for all of them, however many it has."""
    env: tuple[tuple[str, str], ...] = ()
    remark: str = ""

    def asked(self, devices: int) -> dict[str, int]:
        """Return what a pod with so many accelerators asks for."""
        return {
            key: min(free, max(1, count * devices // self.devices) if self.devices else count)
            for key, count, free in self.counts
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Wiring:
    """What the pods of a plan get for their network."""

    resources: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, wires: Iterable[Wire], devices: int, networks: Networks) -> Wiring:
        """Return what pods with so many accelerators get on nodes that all offer one fabric.

        Of each resource the least that a node offers: any of them may get the pod.
        """
        found = list(wires)
        asked = [wire.asked(devices) for wire in found]
        keys = sorted(asked[0]) if asked else []
        return cls(
            resources={key: min(each[key] for each in asked) for key in keys},
            env=dict(found[0].env if keys else ()) | dict(networks.env),
            annotations=networks.annotations,
        )


def wire_of(
    node: Mapping[str, Any],
    free: Mapping[str, float],
    devices: int,
    wish: Network,
    *,
    attached: bool,
) -> Wire:
    """Return the fabric that pods are to use on a node: the wish's, else the first that it offers.

    ``node`` is what the node can allocate, ``free`` what is left of it; ``devices`` are all of its
    accelerators. ``attached``: whether the settings have the annotations that some fabrics need.
    """
    if wish.fabric == "tcp":
        return Wire()
    for row in _rows(wish):
        counts = _counts(row, node, free, wish)
        asked_for = wish.fabric == row.name or bool(wish.resource)
        if counts and (attached or asked_for or not row.attached):
            shared = row.whole and wish.count is None
            return Wire(
                fabric=row.called(key for key, _, _ in counts),
                counts=counts,
                devices=devices if shared else 0,
                env=row.env,
            )
    if wish.fabric == "auto" and not wish.resource:
        return Wire()
    return Wire(remark=f"offers no {wish.resource or wish.fabric}, which the run asks for")


def _rows(wish: Network) -> tuple[Fabric, ...]:
    """Return the fabrics to look for; a resource that no row knows is taken for shared cards."""
    if wish.fabric != "auto":
        return tuple(row for row in FABRICS if row.name == wish.fabric)
    if not wish.resource:
        return FABRICS
    known = tuple(row for row in FABRICS if re.fullmatch(row.pattern, wish.resource))
    return known or tuple(row for row in FABRICS if row.name == "rdma")


def _counts(
    row: Fabric, node: Mapping[str, Any], free: Mapping[str, float], wish: Network
) -> tuple[tuple[str, int, int], ...]:
    """Return each resource of the fabric that the node has enough of."""
    found = []
    for key in sorted(node):
        named = key == wish.resource if wish.resource else re.fullmatch(row.pattern, key)
        whole, left = int(amount(node[key])), int(free.get(key, 0.0))
        count = wish.count or (whole if row.whole else 1)
        if named and whole >= count > 0 and left >= (wish.count or 1):
            found.append((key, count, left))
    return tuple(found)
