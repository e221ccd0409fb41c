"""What the cluster has to offer a run: Node and Pod objects → :class:`Capacity`. Pure.

Free is what a node can allocate, less what its pods ask for, less what is promised to pods of other
runs that no node has taken yet. Without that last part two runs planned in one second would both
count the same devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qwenft_operator.accelerators import Part, has_accelerators, link_of, part_of
from qwenft_operator.claims import Claim, Requests, free_on
from qwenft_operator.fabrics import PLAIN_RATE, Networks, Wire, Wiring, wire_of
from qwenft_operator.fitness import obstacle
from qwenft_operator.quantities import amount
from qwenft_operator.render.placement import Placement
from qwenft_operator.topology import ZONE, Nearness, domains_of, nearness
from qwenft_plan.hardware import Device, find_device
from qwenft_plan.inventory import PLAIN, Inventory, NodeShape
from qwenft_plan.planner import Planned
from qwenft_plan.spec import FinetuneSpec, Resources

__all__ = [
    "Capacity",
    "Offer",
    "capacity",
    "capacity_besides",
]

Body = Mapping[str, Any]

_GIB = 2**30
_NAMED = 3  # nodes by name in a remark, the others by number
_CPU, _MEMORY = "cpu", "memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """One node's part in the inventory, with what a pod needs to land on it."""

    shape: NodeShape
    resource: str = ""
    whole: int = 0
    """Devices that the node can allocate, whatever runs on it now."""
    label: tuple[str, str] | None = None
    """Label and value that name the product."""
    wire: Wire = field(default_factory=Wire)
    """The fabric that the node offers, and what of it a pod asks for."""
    domains: Mapping[str, str] = field(default_factory=dict)
    """Where the node lies in the network, by label, the widest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """The inventory for one run, and how to reach the nodes behind it."""

    offers: tuple[Offer, ...] = ()
    remarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Why nodes were left out, or what of them was not understood → their names."""
    ahead: int = 0
    """Runs that wait too, and come before."""
    first: str = ""
    """What the first of them is called."""
    largest_memory: float = 0.0
    """Bytes that the largest of the usable nodes can allocate, whatever runs on it now."""
    networks: Networks = field(default_factory=Networks)

    @property
    def inventory(self) -> Inventory:
        """The nodes as the planner takes them."""
        return Inventory(nodes=tuple(offer.shape for offer in self.offers))

    @property
    def remark(self) -> str:
        """The remarks in one sentence for people, empty where there are none."""
        parts = []
        for reason, nodes in sorted(self.remarks.items(), key=lambda item: (-len(item[1]), item)):
            more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
            parts.append(f"{', '.join(nodes[:_NAMED])}{more} ({reason})")
        return f"left out: {'; '.join(parts)}" if parts else ""

    @property
    def free(self) -> str:
        """What is free, for people: `1×8 H100-80GB, 2×2 CPU`."""
        shapes = [offer.shape for offer in self.offers if offer.shape.devices]
        groups = Counter((shape.devices, shape.device.name) for shape in shapes)
        found = [f"{count}×{devices} {name}" for (devices, name), count in sorted(groups.items())]
        return ", ".join(found) or "nothing"

    def without(self, nodes: tuple[str, ...]) -> Capacity:
        """Return the capacity less some nodes."""
        left = tuple(offer for offer in self.offers if offer.shape.name not in nodes)
        return replace(self, offers=left)

    def within(self, budget: float | None) -> Capacity:
        """Return the capacity with at most ``budget`` GiB a device."""
        if budget is None:
            return self
        return replace(self, offers=tuple(_limited(offer, budget) for offer in self.offers))

    def placement(
        self, spec: FinetuneSpec, planned: Planned, *, avoid: tuple[str, ...] = ()
    ) -> Placement:
        """Return where the pods of the chosen plan may go."""
        device = planned.chosen.group.device.name
        offers = [offer for offer in self.offers if offer.shape.device.name == device]
        resource = offers[0].resource if offers else ""
        labels = {offer.label for offer in offers}
        selector = dict(spec.resources.node_selector)
        # A plan for one product must not land on another; with two spellings no label can say so.
        if len(labels) == 1 and (label := labels.pop()) is not None:
            selector = dict((label,)) | selector
        group = planned.chosen.group
        if group.zone:
            selector = {ZONE: group.zone} | selector
        general = Placement.of(spec, on_cpu=not resource)
        taken = [offer for offer in self._takers(planned) if offer.shape.name not in avoid]
        return replace(
            general,
            resource=resource,
            selector=selector,
            avoid=avoid,
            apart=not resource or not _fills(offers, planned.chosen.per_node),
            wiring=self._wiring(taken, planned) if resource else Wiring(),
            near=_nearness(taken, planned) if resource else Nearness(),
        )

    def explained(self, planned: Planned, *, avoid: tuple[str, ...] = ()) -> Planned:
        """Return the plan with a reason that tells what its pods prefer."""
        taken = [offer for offer in self._takers(planned) if offer.shape.name not in avoid]
        told = str(_nearness(taken, planned))
        return replace(planned, reason=f"{planned.reason} {told}") if told else planned

    def _takers(self, planned: Planned) -> list[Offer]:
        """Return the nodes that the plan's pods may land on."""
        best, group = planned.chosen, planned.chosen.group
        return [
            offer
            for offer in self.offers
            if offer.shape.device.name == group.device.name
            and offer.shape.devices >= best.per_node
            and (not group.zone or offer.shape.zone == group.zone)
            and (group.fabric in ("", PLAIN) or offer.shape.fabric == group.fabric)
        ]

    def _wiring(self, offers: list[Offer], planned: Planned) -> Wiring:
        """Return what the pods get to reach each other as fast as the plan assumes."""
        best = planned.chosen
        if best.nodes == 1:
            return Wiring()
        plain = best.group.fabric in ("", PLAIN)
        wires = [Wire() if plain else offer.wire for offer in offers]
        return Wiring.of(wires, best.per_node, self.networks)


def _fills(offers: list[Offer], devices: int) -> bool:
    """Whether no node could take two pods of so many devices, were it empty."""
    return all(0 < offer.whole < 2 * devices for offer in offers)


def _nearness(offers: list[Offer], planned: Planned) -> Nearness:
    return nearness([offer.domains for offer in offers], planned.chosen.nodes)


def _limited(offer: Offer, budget: float) -> Offer:
    memory = max(1, min(offer.shape.device.memory, int(budget * _GIB)))
    return replace(offer, shape=replace(offer.shape, device_memory_bytes=memory))


def capacity(
    resources: Resources,
    nodes: Iterable[Body],
    pods: Iterable[Body],
    promised: Iterable[Requests] = (),
    networks: Networks | None = None,
) -> Capacity:
    """Return what is free for a run that asks for ``resources``.

    ``pods`` are all pods of the cluster that have not ended; ``promised`` the requests of pods that
    other runs are about to create; ``networks`` what the settings say of the nodes' networks.
    """
    claims = [Claim.of(pod) for pod in pods] + [Claim(requests=wanted) for wanted in promised]
    return capacity_besides(resources, nodes, claims, networks)


def capacity_besides(
    resources: Resources,
    nodes: Iterable[Body],
    claims: Iterable[Claim],
    networks: Networks | None = None,
) -> Capacity:
    """Return what is free besides ``claims``; for the rest see :func:`capacity`."""
    networks = networks or Networks()
    survey = _Survey(resources, networks)
    usable = [node for node in nodes if survey.is_usable(node)]
    free = free_on(usable, claims)
    offers = [survey.offer(node, free[node["metadata"]["name"]]) for node in usable]
    return Capacity(
        offers=tuple(offer for offer in offers if offer is not None),
        remarks={reason: tuple(sorted(names)) for reason, names in survey.remarks.items()},
        largest_memory=max((_allocatable_memory(node) for node in usable), default=0.0),
        networks=networks,
    )


def _allocatable_memory(node: Body) -> float:
    return amount(((node.get("status") or {}).get("allocatable") or {}).get(_MEMORY, 0))


class _Survey:
    """One look at all nodes: what each offers, and why some offer nothing."""

    def __init__(self, resources: Resources, networks: Networks) -> None:
        self._resources = resources
        self._networks = networks
        self.remarks: dict[str, list[str]] = {}

    def is_usable(self, node: Body) -> bool:
        """Return whether a pod of the run may land on the node."""
        reason = obstacle(node, self._resources)
        # For a run on GPUs it goes without saying that nodes without them are left out.
        if reason and (self._resources.gpus_per_node is None or has_accelerators(node)):
            self._remark(node, reason)
        return not reason

    def offer(self, node: Body, rest: Requests) -> Offer | None:
        """Return the node's offer, None if it has nothing for the run."""
        resources = self._resources
        part = part_of(node) if resources.processes_per_node is None else None
        if part is not None and part.refusal:
            self._remark(node, part.refusal)
            return None
        if part is not None:
            return self._wired(node, _device_offer(node, part, rest), rest)
        if resources.gpus_per_node is not None:
            return None
        return Offer(shape=_cpu_shape(node, resources, rest, self._rates(node, None)))

    def _rates(self, node: Body, device: Device | None) -> dict[str, Any]:
        """Return what a node's shape says of its network; ``device`` None is of a CPU node."""
        link = link_of(node, device, self._networks.rates)
        if link.remark:
            self._remark(node, link.remark)
        if device is None:
            rate, plain = link.rate, None
        else:
            rate = device.network if link.rate is None else link.rate
            plain = rate if link.is_given else min(rate, PLAIN_RATE)
        return {
            "network_bytes_per_second": rate,
            "network_source": link.source,
            "plain_bytes_per_second": plain,
            "plain_source": link.source if plain == rate else "assumed of a pod's own interface",
        }

    def _wired(self, node: Body, offer: Offer, rest: Requests) -> Offer | None:
        """Return the offer with what its pods reach each other over; None without what must be."""
        allocatable = node["status"]["allocatable"]
        wire = wire_of(
            allocatable,
            rest,
            int(amount(allocatable.get(offer.resource, 0))),
            self._networks.wish_of(self._resources.network),
            attached=bool(self._networks.annotations),
        )
        if wire.remark:
            self._remark(node, wire.remark)
            return None
        labels = node["metadata"].get("labels") or {}
        rates = self._rates(node, find_device(offer.shape.product))
        shape = replace(offer.shape, fabric=wire.fabric, zone=labels.get(ZONE, ""), **rates)
        if not wire.counts:
            shape = replace(
                shape,
                network_bytes_per_second=shape.plain_bytes_per_second,
                network_source=shape.plain_source,
            )
        return replace(offer, shape=shape, wire=wire, domains=domains_of(labels))

    def _remark(self, node: Body, reason: str) -> None:
        self.remarks.setdefault(reason, []).append(node["metadata"]["name"])


def _device_offer(node: Body, part: Part, rest: Requests) -> Offer:
    shape = NodeShape(
        name=node["metadata"]["name"],
        product=part.product,
        devices=max(0, int(rest.get(part.resource, 0))),
        device_memory_bytes=part.memory,
        host_memory_bytes=max(1, int(rest[_MEMORY])) if _MEMORY in rest else None,
    )
    whole = int(amount(node["status"]["allocatable"].get(part.resource, 0)))
    return Offer(shape=shape, resource=part.resource, whole=whole, label=part.label)


def _cpu_shape(
    node: Body, resources: Resources, rest: Requests, rates: Mapping[str, Any]
) -> NodeShape:
    """Share the node's memory, or what the run asks for of it, among its processes."""
    fitting = int(rest.get(_CPU, 0.0) // resources.cpus_per_process)
    processes = max(0, min(fitting, resources.processes_per_node or fitting))
    memory = max(0.0, rest.get(_MEMORY, 0.0))
    if resources.memory_per_node is not None:
        processes = processes if resources.memory_per_node <= memory else 0
        memory = resources.memory_per_node
    return NodeShape(
        name=node["metadata"]["name"],
        product="cpu",
        devices=processes,
        device_memory_bytes=int(memory // processes) if processes else None,
        cpus_per_process=resources.cpus_per_process,
        **rates,
    )
