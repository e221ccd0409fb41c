"""The smallest thing that can be saved: one layer and its optimizer, sharded where there are ranks.

It stands in for a rank's stages, of which a checkpoint asks the names of parameters only.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from qwenft_trainer.gradients import local


class Layer(nn.Linear):
    """A layer that is asked, as stages are, which of its parameters are trained: all."""

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over names and parameters."""
        return self.named_parameters()


class Plain:
    """A layer, and one step of training so that the optimizer has its moments."""

    def __init__(self, width: int = 64) -> None:
        torch.manual_seed(0)
        self.layer = Layer(width, width)
        if dist.get_world_size() > 1:
            mesh = init_device_mesh("cpu", (dist.get_world_size(),))
            fully_shard(self.layer, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.layer.parameters(), lr=0.1)
        self.train()

    @property
    def stages(self) -> Any:
        """Return what has the parameters' names."""
        return self.layer

    def train(self) -> None:
        """Take one step."""
        self.layer(torch.ones(2, self.layer.in_features)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def digest(self) -> str:
        """Hash all weights and moments, gathered from all ranks."""
        hashed = hashlib.sha256()
        for value in self.layer.parameters():
            state = self.optimizer.state[value]
            for tensor in (value.detach(), state["exp_avg"], state["exp_avg_sq"]):
                whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else local(tensor)
                hashed.update(whole.numpy().tobytes())
        return hashed.hexdigest()
