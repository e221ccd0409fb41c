"""Activation checkpointing: a layer's activations are dropped after forward and computed again."""

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from qwenft_trainer.model import Stage

SAVED_OPERATIONS = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,  # noqa: SLF001 - its public name
    torch.ops.aten._scaled_dot_product_efficient_attention.default,  # noqa: SLF001
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,  # noqa: SLF001
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,  # noqa: SLF001
    torch.ops.torch_attn._varlen_attn.default,  # noqa: SLF001
]
"""What selective checkpointing keeps; norms, rotations and activations are computed again."""


def recompute(stage: Stage, *, selective: bool) -> None:
    """Drop each layer's activations after forward and compute them again in backward."""
    options: dict[str, Any] = {"use_reentrant": False}
    if selective:
        context = partial(create_selective_checkpoint_contexts, SAVED_OPERATIONS)
        options["context_fn"] = context
    for layer in stage.layers():
        layer.forward = partial(checkpoint, layer.forward, **options)
