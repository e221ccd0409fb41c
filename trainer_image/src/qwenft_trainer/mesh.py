"""The four axes on which every plan lives, and where this rank stands on them.

The axes are ordered from the slowest link to the fastest: pipeline stages may lie on far nodes,
tensor-parallel ranks sit side by side. An axis of size one is an axis like any other, so a plain
run is the 1×1×1×1 mesh and takes the same path through the code as all the others.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from qwenft_plan.plan import Plan
from qwenft_trainer.failure import PlanInvalid

AXES = ("pp", "dp_replicate", "dp_shard", "tp")
SET_UP = timedelta(seconds=600)
"""How long a rank waits for another while models are read, written or compiled."""
STEP = timedelta(seconds=120)
"""How long within a step, once one has ended: all ranks come to it at the same time."""


def pick_device() -> torch.device:
    """Return the accelerator of this local rank, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def build_mesh(plan: Plan, device_type: str) -> DeviceMesh:
    """Lay the default process group out as the plan's mesh.

    Raises :class:`PlanInvalid` if another number of processes was started than was planned.
    """
    started = dist.get_world_size()
    if started != plan.world_size:
        raise PlanInvalid(
            f"the plan is for world_size {plan.world_size}, but {started} processes were started; "
            "start nodes × processes_per_node of them, or plan anew"
        )
    degrees = (plan.pp, plan.dp_replicate, plan.dp_shard, plan.tp)
    mesh = init_device_mesh(device_type, degrees, mesh_dim_names=AXES)
    bound(mesh, SET_UP)
    return mesh


def bound(mesh: DeviceMesh, limit: timedelta) -> None:
    """Let no collective wait for its peers longer; torch itself gives most groups half an hour."""
    for group in {dist.group.WORLD, *(mesh.get_group(axis) for axis in AXES)}:
        dist.set_timeout(limit, group)


def data_index(mesh: DeviceMesh) -> int:
    """Return which data-parallel slice this rank trains on, in ``[0, dp_replicate·dp_shard)``."""
    replicate = mesh.get_local_rank("dp_replicate")
    return replicate * mesh["dp_shard"].size() + mesh.get_local_rank("dp_shard")


def sharding_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """Return the mesh that parameters are sharded over.

    Two-dimensional (replicas of shards) only where there are replicas, for an all-reduce over
    one rank is not free.
    """
    if mesh["dp_replicate"].size() == 1:
        return mesh["dp_shard"]
    return mesh["dp_replicate", "dp_shard"]


def sum_over(mesh: DeviceMesh, value: torch.Tensor, *axes: str) -> torch.Tensor:
    """Add ``value`` up over the named axes, in place, and return it."""
    for axis in axes:
        if mesh[axis].size() > 1:
            dist.all_reduce(value, group=mesh.get_group(axis))
    return value
