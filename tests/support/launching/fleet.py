"""Standing as any rank of a plan in one process, on torch's fake process group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from qwenft_plan.plan import Plan
from qwenft_trainer.mesh import build_mesh


@contextmanager
def standing_as(rank: int, plan: Plan) -> Iterator[DeviceMesh]:
    """Be ``rank`` of the plan; its collectives do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.world_size)
    try:
        yield build_mesh(plan, "cpu")
    finally:
        dist.destroy_process_group()
