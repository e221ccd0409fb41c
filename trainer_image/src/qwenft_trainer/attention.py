"""Attention inside the samples of packed rows.

On a GPU torch's kernel for sequences of unequal lengths computes each sample by itself: it needs
no mask, keeps none for backward, and skips what lies between two samples. Elsewhere, and in fp32,
Hugging Face's own attention gets a mask. A layer finds both under the name ``NAME``; which one it
is shows in the shape of the mask that it is given.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "qwenft"
"""What the layers' configuration calls this attention."""
LEAST_BOUNDS = 16
"""Bounds are filled up to this many, and then to the next power of two: each number is a shape."""
CAUSAL = (-1, 0)


def mask_of(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what keeps the attention of layers computing in ``dtype`` inside each segment.

    ``segments`` [B, T] numbers the samples that share a row; equal numbers belong together.
    Returns bounds [N + 1] where a kernel takes them, else a mask [B, 1, T, T].
    """
    if segments.is_cuda and dtype in (torch.bfloat16, torch.float16):
        bounds = bounds_of(segments)
        if bounds is not None:
            return bounds
    return dense_mask(segments)


def dense_mask(segments: Tensor) -> Tensor:
    """Return which positions see which: [B, 1, T, T], true inside one segment and not ahead."""
    length = segments.shape[1]
    same = segments[:, None, :, None] == segments[:, None, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return same & causal


def bounds_of(segments: Tensor) -> Tensor | None:
    """Return where each segment begins in the flattened rows, and their end: int32 [N + 1].

    The end is repeated up to a power of two. None if a segment lies in several pieces, which no
    pair of bounds describes. Waits for the device.
    """
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    ordered = segments.sort(dim=1).values
    distinct = (ordered[:, 1:] != ordered[:, :-1]).sum() + len(segments)
    places = begins.flatten().nonzero().flatten()
    if len(places) != int(distinct):
        return None
    room = max(LEAST_BOUNDS, 1 << len(places).bit_length())
    bounds = places.new_full((room,), segments.numel(), dtype=torch.int32)
    bounds[: len(places)] = places
    return bounds


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as Hugging Face's layers ask: query [B, heads, T, d], keys and values of fewer heads.

    ``attention_mask`` is one of :func:`mask_of`, or None for plain causal attention. Returns
    [B, T, heads, d].
    """
    if attention_mask is None or attention_mask.dim() > 1:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return found
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - brings torch's compiler

    rows, heads, length, width = query.shape
    # One after the other in one long row, which is what the bounds count in.
    queries, keys, values = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    output = varlen_attn(
        queries,
        keys,
        values,
        attention_mask,
        attention_mask,
        length,
        length,
        scale=scaling,
        window_size=CAUSAL,
        enable_gqa=True,
    )
    assert isinstance(output, Tensor)  # noqa: S101 - nothing else was asked for
    return output.view(rows, length, heads, width), None


AttentionInterface.register(NAME, attend)
