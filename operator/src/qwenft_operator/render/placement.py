"""Where the pods of an attempt may go, and the device resource they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwenft_operator import names
from qwenft_operator.fabrics import Wiring
from qwenft_operator.topology import Nearness
from qwenft_plan.spec import FinetuneSpec, Toleration

__all__ = ["Placement"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Constraints that the planner's choice of nodes puts on the pods."""

    resource: str = ""
    """Extended resource of the devices (``nvidia.com/gpu``); empty for CPU processes."""
    selector: Mapping[str, str] = field(default_factory=dict)
    """Node labels: the user's, and the product for which the plan was made."""
    tolerations: tuple[Toleration, ...] = ()
    avoid: tuple[str, ...] = ()
    """Names of nodes that failed this run before."""
    apart: bool = True
    """Whether two pods would fit on one node, and are to be kept apart.

    Where each takes more than half of any node's devices they cannot meet. The scheduler would
    still hold every pod against every other: for a thousand of them a third of its work.
    """
    wiring: Wiring = field(default_factory=Wiring)
    """What the pods get to reach each other by."""
    near: Nearness = field(default_factory=Nearness)
    """Where the pods would rather be, should there be room."""

    @property
    def on_cpu(self) -> bool:
        """Whether the devices are CPU processes."""
        return not self.resource

    @classmethod
    def of(cls, spec: FinetuneSpec, *, on_cpu: bool | None = None) -> Placement:
        """Return the placement that follows from the spec alone, with no cluster at hand.

        ``on_cpu`` None reads it from the spec: CPU nodes are meant by ``processesPerNode``.
        """
        if on_cpu is None:
            on_cpu = spec.resources.processes_per_node is not None
        return cls(
            resource="" if on_cpu else "nvidia.com/gpu",
            selector=spec.resources.node_selector,
            tolerations=spec.resources.tolerations,
        )

    def to_pod(self, uid: str) -> dict[str, Any]:
        """Return the scheduling fields of the pod spec; pods of one run never share a node."""
        affinity: dict[str, Any] = {"podAntiAffinity": _apart(uid)} if self.apart else {}
        nodes = (_away_from(self.avoid) if self.avoid else {}) | _towards(self.near)
        if nodes:
            affinity["nodeAffinity"] = nodes
        if self.near.keys:
            affinity["podAffinity"] = _together(self.near, uid)
        fields: dict[str, Any] = {"affinity": affinity} if affinity else {}
        if self.selector:
            fields["nodeSelector"] = dict(sorted(self.selector.items()))
        if self.tolerations:
            fields["tolerations"] = [_toleration(item) for item in self.tolerations]
        return fields


def _apart(uid: str) -> dict[str, Any]:
    term = {
        "labelSelector": {"matchLabels": {names.LABEL_UID: uid}},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}


def _away_from(nodes: tuple[str, ...]) -> dict[str, Any]:
    # The field, not the hostname label: the label may differ from the node's name.
    expression = {"key": "metadata.name", "operator": "NotIn", "values": sorted(nodes)}
    terms = [{"matchFields": [{**expression, "values": [node]} for node in sorted(nodes)]}]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def _towards(near: Nearness) -> dict[str, Any]:
    if near.domain is None:
        return {}
    key, value = near.domain
    expression = {"key": key, "operator": "In", "values": [value]}
    preferred = {"weight": 100, "preference": {"matchExpressions": [expression]}}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}


def _together(near: Nearness, uid: str) -> dict[str, Any]:
    own = {"matchLabels": {names.LABEL_UID: uid}}
    terms = [
        {"weight": weight, "podAffinityTerm": {"labelSelector": own, "topologyKey": key}}
        for key, weight in near.weighted
    ]
    return {"preferredDuringSchedulingIgnoredDuringExecution": terms}


def _toleration(item: Toleration) -> dict[str, str]:
    fields = {
        "key": item.key,
        "operator": item.operator,
        "value": item.value,
        "effect": item.effect,
    }
    return {name: value for name, value in fields.items() if value}
