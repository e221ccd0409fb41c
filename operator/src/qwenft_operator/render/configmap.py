"""The frozen plan: what an attempt runs cannot change under it."""

from __future__ import annotations

from typing import Any

from qwenft_operator import names
from qwenft_operator.render.metadata import metadata
from qwenft_operator.run import Owner
from qwenft_plan.plan import Plan

__all__ = ["config_map"]


def config_map(plan: Plan, owner: Owner) -> dict[str, Any]:
    """Return the immutable ConfigMap with ``plan.json`` and ``run.json``."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, names.config_map(owner.name, plan.digest), plan=plan.digest),
        "immutable": True,
        "data": {"plan.json": plan.to_json(), "run.json": owner.run_json()},
    }
