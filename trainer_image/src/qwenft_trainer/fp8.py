"""Matrix products of the layers in 8-bit floating point, by torchao.

Inputs, weights and gradients are scaled tensor by tensor as they are multiplied; weights, their
shards and checkpoints stay what they are in bf16 training, under the same names. Embedding, head,
norms and attention are as in bf16.
"""

from dataclasses import replace

import torch
from torch import nn

from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.model import Stage

LEAST_CAPABILITY = (8, 9)
"""The first GPUs that multiply in fp8: L4, L40S, RTX 40 (Ada) and, at 9.0, H100 (Hopper)."""
MULTIPLE = 16
"""The units take matrices whose sides this divides."""


def multiply_in_fp8(stage: Stage) -> None:
    """Replace the layers' linear modules by such as multiply in fp8, where their sides allow it.

    Without a GPU the rounding is that of fp8 and the products are those of bf16, which is for
    tests. Raises :class:`PlanInvalid` for a GPU that has no fp8.
    """
    from torchao.float8 import (  # noqa: PLC0415 - seconds, for those who use it
        Float8LinearConfig,
        convert_to_float8_training,
    )

    emulated = not torch.cuda.is_available()
    if not emulated and torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        raise PlanInvalid(
            f"precision fp8: {torch.cuda.get_device_name()} does not multiply in fp8; choose bf16"
        )
    config = replace(Float8LinearConfig.from_recipe_name("tensorwise"), emulate=emulated)
    for layer in stage.layers():
        convert_to_float8_training(layer, module_filter_fn=_fits, config=config)


def _fits(module: nn.Module, _name: str) -> bool:
    return isinstance(module, nn.Linear) and not (
        module.in_features % MULTIPLE or module.out_features % MULTIPLE
    )
