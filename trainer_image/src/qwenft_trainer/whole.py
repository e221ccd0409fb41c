"""Putting the parts of a model that is spread over the ranks together again."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.module import _IncompatibleKeys

from qwenft_trainer.blame import refuse
from qwenft_trainer.checkpoint import failures_named, from_rank_0
from qwenft_trainer.elsewhere import in_order
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
    return in_order({name: value for part in parts for name, value in part.items()})


def load(
    stages: Stages,
    named: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    *,
    strict: bool,
) -> _IncompatibleKeys:
    """Copy whole weights into this rank's parts of the parameters ``named``. Collective.

    Returns the keys that are missing and unexpected, as torch does where not ``strict``.
    """
    meet("model.load_state_dict()")
    missing = [name for name in named if name not in weights]
    unexpected = [name for name in weights if name not in named]
    if strict and (missing or unexpected):
        refuse(
            f"load_state_dict: {missing[:3]} are missing and {unexpected[:3]} unexpected",
            "load what model.state_dict() gave, or pass strict=False",
        )
    for name in named.keys() & weights.keys():
        if weights[name].shape != named[name].shape:
            refuse(
                f"load_state_dict: {name} has shape {tuple(weights[name].shape)}, "
                f"not {tuple(named[name].shape)}",
                "load what model.state_dict() gave",
            )
    with torch.no_grad():
        for name, value in stages.named_parameters():
            if name in weights:
                value.copy_(like(weights[name], value))
    return _IncompatibleKeys(missing, unexpected)


def like(weight: Tensor, value: Tensor) -> Tensor:
    """Return this rank's part of a whole weight, laid out as ``value``."""
    weight = weight.to(value.device, value.dtype)
    if not isinstance(value, DTensor):
        return weight
    return distribute_tensor(weight, value.device_mesh, value.placements, src_data_rank=None)


def full(value: Tensor) -> Tensor:
    """Return the whole of a sharded tensor; a plain one as it is. Collective."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def save(stages: Stages, directory: Path, source: Path, dtype: torch.dtype) -> None:
    """Export the model into a directory that may hold other files already. Collective."""
    meet("model.save_pretrained()")
    stages.wait_long()
    inner = directory / ".model"
    export_model(stages, inner, source=source, dtype=dtype)
    with failures_named(f"the model cannot be written to {directory}"):
        from_rank_0(partial(_move_up, inner))


def _move_up(inner: Path) -> None:
    for path in inner.iterdir():
        path.replace(inner.parent / path.name)
    inner.rmdir()
