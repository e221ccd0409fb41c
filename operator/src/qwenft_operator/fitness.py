"""Whether a pod of a run may land on a node at all, and what stands in the way. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenft_plan.spec import Resources, Toleration

__all__ = ["is_ready", "obstacle"]

Body = Mapping[str, Any]


def is_ready(node: Body) -> bool:
    """Return whether the node's agent reports that it is ready."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item.get("status") == "True" for item in conditions)


def obstacle(node: Body, resources: Resources) -> str:
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
