"""Parameters that other stages of a pipeline hold: their names and shapes, without their values.

A script counts parameters, groups them by layer and numbers them in its optimizer's state. All of
it comes out as on one process if it meets every parameter, in Hugging Face's order. Those of other
stages are tensors sharded over ranks that this one is not among: of no bytes, never with a
gradient, so optimizers pass over them.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from qwenft_trainer.stages import Stages

T = TypeVar("T", bound=Tensor)
_LAYER = re.compile(r"\blayers\.(\d+)\.")


def whole_model(stages: Stages) -> dict[str, nn.Parameter]:
    """Return all parameters in Hugging Face's order, other stages' as stand-ins. Collective."""
    mine = dict(stages.named_parameters())
    if stages.plan.pp == 1:
        return mine
    shapes = {name: (value.shape, value.dtype) for name, value in mine.items()}
    group = stages.mesh.get_group("pp")
    parts: list[dict[str, tuple[torch.Size, torch.dtype]]] = [{} for _ in range(stages.plan.pp)]
    dist.all_gather_object(parts, shapes, group=group)
    mesh = _another_s_mesh(stages.mesh)
    found = {
        name: mine[name] if name in mine else _stand_in(shape, dtype, mesh, stages.device)
        for part in parts
        for name, (shape, dtype) in part.items()
    }
    return in_order(found)


def is_elsewhere(value: Tensor) -> bool:
    """Tell whether a tensor belongs to a stage that this rank is not part of."""
    return isinstance(value, DTensor) and value.device_mesh.get_coordinate() is None


def in_order(named: Mapping[str, T]) -> dict[str, T]:
    """Sort by where the parameter stands in the model; layers by number, the rest around them."""
    return dict(sorted(named.items(), key=lambda entry: _place(entry[0])))


def _place(name: str) -> float:
    layer = _LAYER.search(name)
    if layer is not None:
        return float(layer[1])
    return -1.0 if "embed_tokens" in name else float("inf")


def _another_s_mesh(mesh: DeviceMesh) -> DeviceMesh:
    other = (dist.get_rank() + 1) % dist.get_world_size()
    return DeviceMesh(mesh.device_type, torch.tensor([other]), _init_backend=False)


def _stand_in(
    shape: torch.Size, dtype: torch.dtype, mesh: DeviceMesh, device: torch.device
) -> nn.Parameter:
    strides = torch.empty(shape, device="meta").stride()
    spec = DTensorSpec(mesh, (Replicate(),), TensorMeta(shape, strides, dtype))
    nothing = torch.empty(0, dtype=dtype, device=device)
    return nn.Parameter(DTensor(nothing, spec, requires_grad=False))
