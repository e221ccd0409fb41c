"""Building every rank's part of a plan on one machine, on torch's fake process group."""

import multiprocessing
from collections.abc import Mapping
from functools import partial
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
    """Build each rank; how many elements each holds, and under which names.

    Each rank is a forked process of its own: torch keeps meshes of a destroyed process group in
    caches, and a second rank in one process would find the first one's.
    """
    config = Path(case["options"]["config"])
    chosen = case["options"].get("ranks") or range(plan.world_size)
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        ranks = pool.map(partial(_build_rank, plan, config), chosen, chunksize=1)
    names = set().union(*(held.keys() for held in ranks))
    return {
        "sizes": [sum(held.values()) for held in ranks],
        "names": sorted(names),
        "held": [sorted(h) for h in ranks],
    }


def _build_rank(plan: Plan, config: Path, rank: int) -> dict[str, int]:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.world_size)
    stages = build_stages(plan, build_mesh(plan, "cpu"), read_config(config), Fresh(seed=0))
    return {name: local(value).numel() for name, value in stages.named_parameters()}
