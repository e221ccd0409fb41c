"""What tests of the chart look for in the objects that Helm renders."""

from __future__ import annotations

from typing import Any

__all__ = ["Objects", "named", "of_kind", "pod_spec"]

Objects = list[dict[str, Any]]


def of_kind(objects: Objects, kind: str) -> Objects:
    """Return the objects of a kind."""
    return [item for item in objects if item["kind"] == kind]


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    """Return the one object of that kind and name."""
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


def pod_spec(objects: Objects) -> dict[str, Any]:
    """Return the spec of the operator's pod."""
    (deployment,) = of_kind(objects, "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec
