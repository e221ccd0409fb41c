"""What pods take of nodes, and what is left of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qwenft_operator.quantities import amount

__all__ = ["Claim", "Requests", "free_on", "requests_of"]

Body = Mapping[str, Any]
Requests = Mapping[str, float]
"""Resource → how much of it, in its base unit (cores, bytes, devices)."""


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


def free_on(nodes: Iterable[Body], claims: Iterable[Claim]) -> dict[str, dict[str, float]]:
    """Return what is left of each node, by its name.

    First goes what is bound to it, then what no node has taken yet.
    """
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
