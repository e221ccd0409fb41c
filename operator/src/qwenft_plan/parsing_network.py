"""Parsing ``spec.resources.network``, which the operator's settings have as well."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwenft_plan import fields
from qwenft_plan.errors import SpecError
from qwenft_plan.sections import Network

__all__ = ["FABRIC_NAMES", "network"]

FABRIC_NAMES = ("auto", "tcp", "efa", "rdma", "sriov")
_RESOURCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,252}/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def network(mapping: Mapping[str, Any], path: str) -> Network:
    """Parse ``spec.resources.network``; the operator's settings have the same fields."""
    fields.only_known(mapping, ("fabric", "resource", "count"), path)
    found = Network(
        fabric=fields.choice(mapping, "fabric", path, FABRIC_NAMES, "auto"),
        resource=fields.text(mapping, "resource", path),
        count=fields.integer(mapping, "count", path, least=1, most=256),
    )
    if found.resource and _RESOURCE.fullmatch(found.resource) is None:
        raise SpecError(f"{path}.resource", f"{found.resource!r} is no resource such as rdma/ib")
    if found.fabric == "tcp" and (found.resource or found.count is not None):
        raise SpecError(f"{path}.fabric", "tcp asks for no resource; leave resource and count out")
    return found
