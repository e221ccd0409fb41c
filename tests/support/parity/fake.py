"""Building every rank's part of a plan in one process, on torch's fake process group."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from qwenft_plan.plan import Plan
from qwenft_trainer.gradients import local
from qwenft_trainer.mesh import build_mesh
from qwenft_trainer.model import read_config
from qwenft_trainer.stages import build_stages
from qwenft_trainer.weights import Fresh


def build(plan: Plan, case: Mapping[str, Any]) -> dict[str, Any]:
    """Build each rank in turn; how many elements each holds, and under which names."""
    config = read_config(Path(case["options"]["config"]))
    sizes, names = [], set()
    for rank in range(plan.world_size):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.world_size)
        stages = build_stages(plan, build_mesh(plan, "cpu"), config, Fresh(seed=0))
        held = dict(stages.named_parameters())
        sizes.append(sum(local(value).numel() for value in held.values()))
        names |= held.keys()
        dist.destroy_process_group()
    return {"sizes": sizes, "names": sorted(names)}
