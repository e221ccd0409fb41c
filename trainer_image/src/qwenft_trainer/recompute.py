"""Activation checkpointing: a layer's activations are dropped after forward and computed again."""

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from qwenft_trainer.model import Stage


def saved_operations() -> list[Any]:
    """Return what selective checkpointing keeps; norms, rotations, activations are recomputed."""
    from torch.nn.attention import varlen  # noqa: F401, PLC0415 - registers its own; takes seconds

    return [
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,  # noqa: SLF001 - its public name
        torch.ops.aten._scaled_dot_product_efficient_attention.default,  # noqa: SLF001
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,  # noqa: SLF001
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,  # noqa: SLF001
        torch.ops.torch_attn._varlen_attn.default,  # noqa: SLF001
    ]


def recompute(stage: Stage, *, selective: bool) -> None:
    """Drop each layer's activations after forward and compute them again in backward."""
    options: dict[str, Any] = {"use_reentrant": False}
    if selective:
        context = partial(create_selective_checkpoint_contexts, saved_operations())
        options["context_fn"] = context
    for layer in stage.layers():
        layer.forward = partial(checkpoint, layer.forward, **options)
