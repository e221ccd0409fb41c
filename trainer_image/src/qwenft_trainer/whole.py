"""Putting the parts of a model that is spread over the ranks together again."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from qwenft_trainer.export import export_model
from qwenft_trainer.stages import Stages
from qwenft_trainer.together import meet


def state_dict(stages: Stages) -> dict[str, Tensor]:
    """Return all weights on the CPU of every rank, tensor by tensor. Collective."""
    meet("model.state_dict()")
    stages.wait_long()
    mine = {name: full(value.detach()).cpu() for name, value in stages.named_parameters()}
    if stages.plan.pp == 1:
        return mine
    group = stages.mesh.get_group("pp")
    parts: list[dict[str, Tensor]] = [{} for _ in range(stages.plan.pp)]
    dist.all_gather_object(parts, mine, group=group)
    return {name: value for part in parts for name, value in part.items()}


def full(value: Tensor) -> Tensor:
    """Return the whole of a sharded tensor; a plain one as it is. Collective."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def parameter_count(stages: Stages) -> int:
    """Count the whole model's parameters. Collective."""
    count = torch.tensor(sum(value.numel() for value in stages.parameters()))
    if stages.plan.pp > 1:
        count = count.to(stages.device)
        dist.all_reduce(count, group=stages.mesh.get_group("pp"))
    return int(count)


def save(stages: Stages, directory: Path, source: Path, dtype: torch.dtype) -> None:
    """Export the model into a directory that may hold other files already. Collective."""
    meet("model.save_pretrained()")
    stages.wait_long()
    inner = directory / ".model"
    export_model(stages, inner, source=source, dtype=dtype)
    if dist.get_rank() == 0:
        for path in inner.iterdir():
            path.replace(directory / path.name)
        inner.rmdir()
    dist.barrier()
