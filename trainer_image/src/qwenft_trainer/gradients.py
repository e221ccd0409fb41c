"""The norm of a model's gradients when no rank holds the model."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from qwenft_trainer.mesh import sum_over

SUMMED = ("dp_shard", "tp", "pp")
"""Axes over which ranks hold different gradients; replicas hold the same ones."""


def gradient_norm(mesh: DeviceMesh, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the L2 norm of all gradients, 0-dim fp32, the same on every rank. Collective.

    Local squares are added up and summed over the mesh once; a gradient that several summed ranks
    hold in full (a norm's weight under tensor parallelism) counts for its share.
    """
    held: dict[int, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            held[copies(parameter.grad)].append(local(parameter.grad))
    squared = torch.zeros((), device=torch.device(mesh.device_type))
    for count, gradients in held.items():
        squared += nn.utils.get_total_norm(gradients).float() ** 2 / count
    return sum_over(mesh, squared, *SUMMED).sqrt()


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def copies(tensor: Tensor) -> int:
    """Count the summed ranks that hold the same part of a tensor."""
    if not isinstance(tensor, DTensor):
        return 1
    names = tensor.device_mesh.mesh_dim_names or ()
    count = 1
    for axis, (name, placement) in enumerate(zip(names, tensor.placements, strict=True)):
        if name in SUMMED and placement.is_replicate():
            count *= tensor.device_mesh.size(axis)
    return count
