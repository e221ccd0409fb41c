"""What one pod asks of its node."""

from __future__ import annotations

import math
from typing import Any

from qwenft_operator.render.placement import Placement
from qwenft_plan.host import pod_host_bytes
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec

__all__ = ["resources"]


def resources(spec: FinetuneSpec, plan: Plan, placement: Placement) -> dict[str, Any]:
    """Return the container's requests and limits.

    Devices and network cards are requested and limited alike, as extended resources must be; a pod
    whose optimizer is offloaded asks for the node's memory too, without a limit that would end the
    run over a gigabyte. CPU processes ask for their cores without a limit: throttling one rank
    would slow all of them. Memory is limited only where the user gave a figure.
    """
    if placement.resource:
        cards = {name: str(count) for name, count in placement.wiring.resources.items()}
        devices = {placement.resource: str(plan.processes_per_node)} | cards
        return {"requests": devices | _host_memory(spec, plan), "limits": devices}
    requests = {"cpu": str(plan.processes_per_node * spec.resources.cpus_per_process)}
    if spec.resources.memory_per_node is None:
        return {"requests": requests}
    memory = {"memory": str(spec.resources.memory_per_node)}
    return {"requests": requests | memory, "limits": memory}


def _host_memory(spec: FinetuneSpec, plan: Plan) -> dict[str, str]:
    if not plan.offload_optimizer:
        return {}
    needed = pod_host_bytes(plan, ModelShape.for_spec(spec.model))
    return {"memory": f"{math.ceil(needed / 2**20)}Mi"}
