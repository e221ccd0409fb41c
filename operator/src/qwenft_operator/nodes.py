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
from qwenft_operator.quantities import amount
from qwenft_operator.render.placement import Placement
from qwenft_plan.hardware import find_device
from qwenft_plan.inventory import Inventory, NodeShape
from qwenft_plan.planner import Planned
from qwenft_plan.spec import FinetuneSpec, Resources, Toleration

__all__ = [
    "Capacity",
    "Claim",
    "Offer",
    "capacity",
    "capacity_besides",
    "is_ready",
    "requests_of",
]

Body = Mapping[str, Any]
Requests = Mapping[str, float]

_GIB = 2**30
_NAMED = 3  # nodes by name in a remark, the others by number
_CPU, _MEMORY = "cpu", "memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """One node's part in the inventory, with what a pod needs to land on it."""

    shape: NodeShape
    resource: str = ""
    label: tuple[str, str] | None = None
    """Label and value that name the product."""


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
        general = Placement.of(spec, on_cpu=not resource)
        return replace(general, resource=resource, selector=selector, avoid=avoid)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What one pod takes."""

    requests: Requests
    node: str = ""
    """Where it takes it; empty: wherever there is room."""

    @classmethod
    def of(cls, pod: Body) -> Claim:
        """Read a Pod."""
        return cls(requests=requests_of(pod["spec"]), node=pod["spec"].get("nodeName") or "")


def _limited(offer: Offer, budget: float) -> Offer:
    memory = max(1, min(offer.shape.device.memory, int(budget * _GIB)))
    return replace(offer, shape=replace(offer.shape, device_memory_bytes=memory))


def capacity(
    resources: Resources,
    nodes: Iterable[Body],
    pods: Iterable[Body],
    promised: Iterable[Requests] = (),
    networks: Mapping[str, float] | None = None,
) -> Capacity:
    """Return what is free for a run that asks for ``resources``.

    ``pods`` are all pods of the cluster that have not ended; ``promised`` the requests of pods that
    other runs are about to create; ``networks`` the rates between nodes that the settings give,
    bytes/s by instance type or device name.
    """
    claims = [Claim.of(pod) for pod in pods] + [Claim(requests=wanted) for wanted in promised]
    return capacity_besides(resources, nodes, claims, networks)


def capacity_besides(
    resources: Resources,
    nodes: Iterable[Body],
    claims: Iterable[Claim],
    networks: Mapping[str, float] | None = None,
) -> Capacity:
    """Return what is free besides ``claims``; for the rest see :func:`capacity`."""
    survey = _Survey(resources, networks or {})
    usable = [node for node in nodes if survey.is_usable(node)]
    free = _free(usable, claims)
    offers = [survey.offer(node, free[node["metadata"]["name"]]) for node in usable]
    return Capacity(
        offers=tuple(offer for offer in offers if offer is not None),
        remarks={reason: tuple(sorted(names)) for reason, names in survey.remarks.items()},
        largest_memory=max((_allocatable_memory(node) for node in usable), default=0.0),
    )


def _allocatable_memory(node: Body) -> float:
    return amount(((node.get("status") or {}).get("allocatable") or {}).get(_MEMORY, 0))


def is_ready(node: Body) -> bool:
    """Return whether the node's agent reports that it is ready."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item.get("status") == "True" for item in conditions)


def _obstacle(node: Body, resources: Resources) -> str:
    """Return why no pod of the run may land on the node, empty if one may."""
    spec = node.get("spec") or {}
    labels = node["metadata"].get("labels") or {}
    if not is_ready(node):
        return "not ready"
    if spec.get("unschedulable"):
        return "cordoned"
    for key, value in sorted(resources.node_selector.items()):
        if labels.get(key) != value:
            return f"nodeSelector wants {key}={value}"
    for taint in spec.get("taints") or []:
        if not _is_tolerated(taint, resources.tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"taint {taint.get('key')}{value}:{taint.get('effect')} is not tolerated"
    return ""


def _is_tolerated(taint: Body, tolerations: tuple[Toleration, ...]) -> bool:
    if taint.get("effect") == "PreferNoSchedule":
        return True
    return any(_tolerates(toleration, taint) for toleration in tolerations)


def _tolerates(toleration: Toleration, taint: Body) -> bool:
    if toleration.effect and toleration.effect != taint.get("effect"):
        return False
    if not toleration.key:
        return toleration.operator == "Exists"
    if toleration.key != taint.get("key"):
        return False
    return toleration.operator == "Exists" or toleration.value == (taint.get("value") or "")


def requests_of(spec: Body) -> dict[str, float]:
    """Return what a pod of this spec asks of its node, as the scheduler counts it."""
    running: Counter[str] = Counter()
    for container in spec.get("containers") or []:
        running.update(_asked(container))
    peak: dict[str, float] = {}
    for container in spec.get("initContainers") or []:
        if container.get("restartPolicy") == "Always":
            running.update(_asked(container))
        else:
            peak = _at_least(peak, _asked(container))
    total = Counter(_at_least(dict(running), peak))
    total.update({key: amount(value) for key, value in (spec.get("overhead") or {}).items()})
    return dict(total)


def _asked(container: Body) -> dict[str, float]:
    resources = container.get("resources") or {}
    asked = (resources.get("limits") or {}) | (resources.get("requests") or {})
    return {key: amount(value) for key, value in asked.items()}


def _at_least(first: Requests, second: Requests) -> dict[str, float]:
    return {key: max(first.get(key, 0.0), second.get(key, 0.0)) for key in {*first, *second}}


def _free(nodes: Iterable[Body], claims: Iterable[Claim]) -> dict[str, dict[str, float]]:
    """Return what is left of each node: first goes what is bound to it, then what is not yet."""
    free = {
        node["metadata"]["name"]: {
            key: amount(value)
            for key, value in ((node.get("status") or {}).get("allocatable") or {}).items()
        }
        for node in nodes
    }
    homeless: list[Requests] = []
    for claim in claims:
        if not claim.node:
            homeless.append(claim.requests)
        elif claim.node in free:
            _take(free[claim.node], claim.requests)
    _reserve(free, homeless)
    return free


def _take(rest: dict[str, float], wanted: Requests) -> None:
    for key, value in wanted.items():
        if key in rest:
            rest[key] -= value


def _reserve(free: dict[str, dict[str, float]], claims: Iterable[Requests]) -> None:
    """Take each claim from the first node with room; a pod that fits nowhere takes nothing.

    Nodes only fill up here: where one claim found no room, no later one like it will. So each kind
    of claim passes over the nodes once, however many pods are about to be created.
    """
    nodes = sorted(free)
    passed: dict[frozenset[tuple[str, float]], int] = {}
    for wanted in claims:
        kind = frozenset(wanted.items())
        at = passed.get(kind, 0)
        while at < len(nodes) and not _has_room(free[nodes[at]], wanted):
            at += 1
        passed[kind] = at
        if at < len(nodes):
            _take(free[nodes[at]], wanted)


def _has_room(rest: Requests, wanted: Requests) -> bool:
    return all(rest.get(key, 0.0) >= value for key, value in wanted.items())


class _Survey:
    """One look at all nodes: what each offers, and why some offer nothing."""

    def __init__(self, resources: Resources, networks: Mapping[str, float]) -> None:
        self._resources = resources
        self._networks = networks
        self.remarks: dict[str, list[str]] = {}

    def is_usable(self, node: Body) -> bool:
        """Return whether a pod of the run may land on the node."""
        obstacle = _obstacle(node, self._resources)
        # For a run on GPUs it goes without saying that nodes without them are left out.
        if obstacle and (self._resources.gpus_per_node is None or has_accelerators(node)):
            self._remark(node, obstacle)
        return not obstacle

    def offer(self, node: Body, rest: Requests) -> Offer | None:
        """Return the node's offer, None if it has nothing for the run."""
        resources = self._resources
        part = part_of(node) if resources.processes_per_node is None else None
        if part is not None and part.refusal:
            self._remark(node, part.refusal)
            return None
        if part is not None:
            return self._linked(node, _device_offer(node, part, rest))
        if resources.gpus_per_node is not None:
            return None
        return self._linked(node, Offer(shape=_cpu_shape(node, resources, rest)))

    def _linked(self, node: Body, offer: Offer) -> Offer:
        device = find_device(offer.shape.product) if offer.resource else None
        link = link_of(node, device, self._networks)
        if link.remark:
            self._remark(node, link.remark)
        if link.rate is None:
            return offer
        shape = replace(offer.shape, network_bytes_per_second=link.rate, network_source=link.source)
        return replace(offer, shape=shape)

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
    return Offer(shape=shape, resource=part.resource, label=part.label)


def _cpu_shape(node: Body, resources: Resources, rest: Requests) -> NodeShape:
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
    )
