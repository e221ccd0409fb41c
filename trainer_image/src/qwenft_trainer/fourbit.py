"""QLoRA's frozen matrices: stored in 4 bits, computed with in the precision of their input.

Every matrix of a block becomes one, adapted or not; embeddings, head, norms and biases stay as they
are. The whole model never lies in a wider form: each layer is read, packed, and forgotten.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from qwenft_plan.sections import MATRICES
from qwenft_trainer.gradients import local
from qwenft_trainer.lowbit import pack, packed_columns, unpack
from qwenft_trainer.model import Stage

PACKED = "packed"
"""The parameter that stands in for ``weight``."""


class Linear4bit(nn.Module):
    """A frozen linear layer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        empty = torch.empty(
            linear.out_features,
            packed_columns(linear.in_features),
            dtype=torch.uint8,
            device=linear.weight.device,
        )
        self.packed = nn.Parameter(empty, requires_grad=False)
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``inputs`` [..., in] times the matrix, plus the bias: [..., out]."""
        outputs: Tensor = _Product.apply(inputs, self.packed)
        return outputs if self.bias is None else outputs + self.bias

    def fill(self, weight: Tensor) -> None:
        """Take over this rank's rows of ``weight``."""
        local(self.packed.detach()).copy_(pack(local(weight)))

    def room(self) -> Tensor:
        """Return an empty matrix, fp32, with the rows that this rank holds."""
        mine = local(self.packed)
        part = torch.empty(len(mine), self.in_features, device=mine.device)
        if not isinstance(self.packed, DTensor):
            return part
        return DTensor.from_local(
            part,
            self.packed.device_mesh,
            self.packed.placements,
            run_check=False,
            shape=torch.Size((self.out_features, self.in_features)),
            stride=(self.in_features, 1),
        )


class _Product(torch.autograd.Function):
    """Keeps the 4 bits for backward, not the matrix that they stand for."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, packed: Tensor) -> Tensor:
        ctx.save_for_backward(packed)
        return F.linear(inputs, unpack(packed, inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (packed,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient @ unpack(packed, gradient.dtype), None


def pack_layers(stage: Stage) -> None:
    """Replace every matrix of a stage's blocks, on the meta device, beneath the adapters."""
    for layer in stage.layers():
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear) and _matrix(name):
                layer.set_submodule(name, Linear4bit(module), strict=True)


def packed_matrices(stage: Stage) -> Iterator[Mapping[str, Linear4bit]]:
    """Iterate over the layers: each one's packed matrices by their names in the stage."""
    found: dict[str, dict[str, Linear4bit]] = {}
    for name, module in stage.named_modules():
        if isinstance(module, Linear4bit):
            layer = name.split(".")[2]
            found.setdefault(layer, {})[name] = module
    return iter(found.values())


def fill_packed(stage: Stage, read: Callable[[Mapping[str, Tensor]], None]) -> None:
    """Fill all packed matrices, layer by layer; ``read`` fills tensors by the names of weights."""
    for matrices in packed_matrices(stage):
        rooms = {f"{name}.weight": matrix.room() for name, matrix in matrices.items()}
        read(rooms)
        for name, matrix in matrices.items():
            matrix.fill(rooms[f"{name}.weight"])


def is_packed(name: str) -> bool:
    """Tell whether a parameter is a packed matrix, which no checkpoint knows by its name."""
    return name.endswith(f".{PACKED}")


def _matrix(name: str) -> bool:
    """Tell whether a layer's module is one of its matrices, wrapped by an adapter or not."""
    return name.removesuffix(".base_layer").split(".")[-1] in MATRICES
