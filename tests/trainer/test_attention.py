"""Attention inside the samples of packed rows: the bounds, and the kernel's call against a mask.

The kernel itself needs a GPU: ``per_sample`` stands in for it, attending sample by sample.
"""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import varlen

from qwenft_trainer.attention import LEAST_BOUNDS, attend, bounds_of, dense_mask, mask_of
from qwenft_trainer.packing import packed
from qwenft_trainer.recompute import saved_operations

pytestmark = pytest.mark.torch


def per_sample(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    begins: Tensor,
    same_begins: Tensor,
    most: int,
    same_most: int,
    **options: Any,
) -> Tensor:
    """Attend between neighbouring bounds, as ``torch.nn.attention.varlen.varlen_attn`` says."""
    assert begins is same_begins
    assert most == same_most
    assert begins.dtype == torch.int32
    assert options.pop("window_size") == (-1, 0), "what lies ahead is not to be seen"
    assert options.pop("enable_gqa")
    parts = []
    for begin, end in pairwise(begins.tolist()):
        assert end - begin <= most
        some = [part[begin:end].transpose(0, 1)[None] for part in (query, key, value)]
        found = functional.scaled_dot_product_attention(
            *some, is_causal=True, enable_gqa=True, scale=options["scale"]
        )
        parts.append(found[0].transpose(0, 1))
    return torch.cat(parts)


class Layer(nn.Module):
    """What Hugging Face's attention asks of the layer it works for."""

    num_key_value_groups = 2
    is_causal = True


def drawn(rows: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    query = torch.randn(rows, 4, length, 8, generator=generator, requires_grad=True)
    key, value = (
        torch.randn(rows, 2, length, 8, generator=generator, requires_grad=True) for _ in range(2)
    )
    return query, key, value


SEGMENTS = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 2, 2, 3, 0, 0]])


def test_bounds_are_where_samples_and_padding_begin_and_the_end_again_and_again() -> None:
    bounds = bounds_of(SEGMENTS)
    assert bounds is not None
    assert bounds.dtype == torch.int32
    assert bounds.tolist() == [0, 2, 5, 6, 7, 9, 10] + [12] * (LEAST_BOUNDS - 7)


@pytest.mark.parametrize(("samples", "room"), [(15, 16), (16, 32), (31, 32), (40, 64)])
def test_numbers_of_bounds_are_few_and_the_end_is_always_among_them(
    samples: int, room: int
) -> None:
    bounds = bounds_of(torch.arange(samples)[None])
    assert bounds is not None
    assert len(bounds) == room
    assert bounds[-1] == samples


def test_two_rows_that_end_and_begin_with_one_number_are_two_samples() -> None:
    bounds = bounds_of(torch.tensor([[1, 1], [1, 1]]))
    assert bounds is not None
    assert bounds[:3].tolist() == [0, 2, 4]


def test_a_sample_in_two_pieces_has_no_bounds() -> None:
    assert bounds_of(torch.tensor([[1, 0, 1, 1]])) is None
    assert bounds_of(torch.tensor([[1, 1, 1, 1], [1, 2, 2, 1]])) is None


def test_bounds_of_packed_rows_are_those_of_their_samples() -> None:
    lengths = (5, 3, 4, 2)
    samples = [torch.arange(length) for length in lengths]
    batch = packed(samples, samples, ((0, 1), (2, 3)))
    assert batch.segments is not None
    bounds = bounds_of(batch.segments)
    assert bounds is not None
    assert bounds[:6].tolist() == [0, 5, 8, 12, 14, 16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_gpu_layers_get_a_mask(dtype: torch.dtype) -> None:
    assert torch.equal(mask_of(SEGMENTS, dtype), dense_mask(SEGMENTS))


def test_attention_within_bounds_is_attention_under_the_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", per_sample)
    inputs = drawn(2, 6)
    bounds = bounds_of(SEGMENTS)
    assert bounds is not None
    results = []
    for mask in (bounds, dense_mask(SEGMENTS)):
        output, nothing = attend(Layer(), *inputs, mask, scaling=0.3)
        assert nothing is None
        assert output.shape == (2, 6, 4, 8)
        results.append((output, torch.autograd.grad(output.square().sum(), inputs)))
    (within, of_within), (under, of_under) = results
    torch.testing.assert_close(within, under)
    torch.testing.assert_close(of_within, of_under)


def test_without_a_mask_attention_is_causal_over_the_whole_row() -> None:
    query, key, value = drawn(1, 5)
    output, _ = attend(Layer(), query, key, value, None, scaling=0.3)
    whole, _ = attend(Layer(), query, key, value, dense_mask(torch.ones(1, 5)), scaling=0.3)
    torch.testing.assert_close(output, whole)


def test_selective_checkpointing_keeps_what_every_kernel_of_attention_puts_out() -> None:
    names = {str(operation) for operation in saved_operations()}
    assert {
        "aten._scaled_dot_product_cudnn_attention.default",
        "aten._scaled_dot_product_flash_attention.default",
        "torch_attn._varlen_attn.default",
    } <= names
