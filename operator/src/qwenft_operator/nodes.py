"""What the cluster has to offer a run: Node and Pod objects → :class:`Capacity`. Pure.

Free is what a node can allocate, less what its pods ask for, less what is promised to pods of other
runs that no node has taken yet. Without that last part two runs planned in one second would both
count the same devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qwenft_operator.quantities import amount
from qwenft_operator.render.placement import Placement
from qwenft_plan.hardware import find_device
from qwenft_plan.inventory import Inventory, NodeShape
from qwenft_plan.planner import Planned
from qwenft_plan.spec import FinetuneSpec, Resources, Toleration

__all__ = ["Capacity", "capacity", "is_ready", "requests_of"]

Body = Mapping[str, Any]
Requests = Mapping[str, float]

_MIB, _GIB = 2**20, 2**30
_PRODUCT_LABELS = {
    "nvidia.com/gpu": ("nvidia.com/gpu.product",),
    "amd.com/gpu": ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"),
}
_MEMORY_LABELS = {"nvidia.com/gpu": "nvidia.com/gpu.memory"}  # MiB, by GPU feature discovery
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
    unknown: tuple[str, ...] = ()
    """Products that the hardware table does not have."""

    @property
    def inventory(self) -> Inventory:
        """The nodes as the planner takes them."""
        return Inventory(nodes=tuple(offer.shape for offer in self.offers))

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


def _limited(offer: Offer, budget: float) -> Offer:
    memory = max(1, min(offer.shape.device.memory, int(budget * _GIB)))
    return replace(offer, shape=replace(offer.shape, device_memory_bytes=memory))


def capacity(
    resources: Resources,
    nodes: Iterable[Body],
    pods: Iterable[Body],
    promised: Iterable[Requests] = (),
) -> Capacity:
    """Return what is free for a run that asks for ``resources``.

    ``pods`` are all pods of the cluster that have not ended; ``promised`` the requests of pods that
    other runs are about to create.
    """
    usable = [node for node in nodes if _is_usable(node, resources)]
    pods = tuple(pods)
    free = _free(usable, pods)
    unbound = [requests_of(pod["spec"]) for pod in pods if not pod["spec"].get("nodeName")]
    for wanted in (*unbound, *promised):
        _reserve(free, wanted)
    return _offers(resources, usable, free)


def is_ready(node: Body) -> bool:
    """Return whether the node's agent reports that it is ready."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item.get("status") == "True" for item in conditions)


def _is_usable(node: Body, resources: Resources) -> bool:
    spec = node.get("spec") or {}
    labels = node["metadata"].get("labels") or {}
    return (
        is_ready(node)
        and not spec.get("unschedulable")
        and all(labels.get(key) == value for key, value in resources.node_selector.items())
        and all(_is_tolerated(taint, resources.tolerations) for taint in spec.get("taints") or [])
    )


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


def _free(nodes: Iterable[Body], pods: Iterable[Body]) -> dict[str, dict[str, float]]:
    free = {
        node["metadata"]["name"]: {
            key: amount(value)
            for key, value in ((node.get("status") or {}).get("allocatable") or {}).items()
        }
        for node in nodes
    }
    for pod in pods:
        rest = free.get(pod["spec"].get("nodeName") or "")
        if rest is not None:
            _take(rest, requests_of(pod["spec"]))
    return free


def _take(rest: dict[str, float], wanted: Requests) -> None:
    for key, value in wanted.items():
        if key in rest:
            rest[key] -= value


def _reserve(free: dict[str, dict[str, float]], wanted: Requests) -> None:
    """Take ``wanted`` from the first node with room; a pod that fits nowhere takes nothing."""
    for name in sorted(free):
        if all(free[name].get(key, 0.0) >= value for key, value in wanted.items()):
            _take(free[name], wanted)
            return


def _offers(resources: Resources, nodes: Iterable[Body], free: Mapping[str, Requests]) -> Capacity:
    offers: list[Offer] = []
    unknown: set[str] = set()
    for node in nodes:
        rest = free[node["metadata"]["name"]]
        resource = next((key for key in _PRODUCT_LABELS if key in rest), "")
        if resource and resources.processes_per_node is None:
            offer = _device_offer(node, resource, rest)
            if find_device(offer.shape.product) is None:
                unknown.add(offer.shape.product)
            else:
                offers.append(offer)
        elif resources.gpus_per_node is None:
            offers.append(Offer(shape=_cpu_shape(node, resources, rest)))
    return Capacity(offers=tuple(offers), unknown=tuple(sorted(unknown)))


def _device_offer(node: Body, resource: str, rest: Requests) -> Offer:
    labels = node["metadata"].get("labels") or {}
    key = next((key for key in _PRODUCT_LABELS[resource] if key in labels), "")
    product = labels.get(key, resource)
    memory = amount(labels.get(_MEMORY_LABELS.get(resource, ""), 0)) * _MIB
    shape = NodeShape(
        name=node["metadata"]["name"],
        product=product,
        devices=max(0, int(rest[resource])),
        device_memory_bytes=int(memory) or None,
    )
    return Offer(shape=shape, resource=resource, label=(key, product) if key else None)


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
