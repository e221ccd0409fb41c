"""Codes of few bits, and the optimizer that keeps its moments in them."""

import pytest
import torch
from torch import Tensor, nn

from qwenft_plan.states import moment_block
from qwenft_trainer.adam8bit import AdamW8bit
from qwenft_trainer.lowbit import (
    decode,
    encode,
    normal_book,
    pack,
    packed_columns,
    signed_book,
    unpack,
    unsigned_book,
)

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("book", [signed_book(CPU), unsigned_book(CPU)])
def test_a_book_has_256_rising_values_up_to_one(book: object) -> None:
    values = book.values  # type: ignore[attr-defined]
    assert len(values) == 256
    assert (values.diff() > 0).all()
    assert values[-1] == 1.0
    assert 0.0 in values


def test_the_smallest_and_largest_values_are_those_of_torchao() -> None:
    # torchao 0.18, create_dynamic_map: first, second and last but one.
    signed, unsigned = signed_book(CPU).values, unsigned_book(CPU).values
    assert signed[[0, 1, 254]].tolist() == pytest.approx([-0.99297, -0.97891, 0.99297], abs=1e-5)
    assert unsigned[[0, 1, 254]].tolist() == pytest.approx([0.0, 3.25e-7, 0.99648], abs=1e-5)


def test_what_the_book_has_comes_back_exactly() -> None:
    book = normal_book(CPU)
    numbers = book.values.repeat(2, 4) * 3.0
    codes, scale = encode(numbers, book, 64)
    assert scale.tolist() == [[3.0], [3.0]]
    assert torch.equal(decode(codes, scale, book), numbers)


def test_a_number_is_off_by_half_a_gap_at_most() -> None:
    numbers, book = drawn(16, 512), signed_book(CPU)
    codes, scale = encode(numbers, book, 256)
    gap = book.values.diff().max() / 2
    off = (decode(codes, scale, book) - numbers).abs()
    assert (off <= (gap + 1e-6) * scale.repeat_interleave(256, dim=1)).all()


def test_shards_of_the_codes_are_the_codes_of_the_shards() -> None:
    numbers = drawn(8, 256)
    assert torch.equal(pack(numbers)[2:6], pack(numbers[2:6]))
    codes, scale = encode(numbers, signed_book(CPU), 64)
    right, right_scale = encode(numbers[:, 128:], signed_book(CPU), 64)
    assert torch.equal(codes[:, 128:], right)
    assert torch.equal(scale[:, 2:], right_scale)


def test_four_bits_take_nine_sixteenths_of_a_byte_and_lose_a_tenth() -> None:
    numbers = drawn(64, 512)
    packed = pack(numbers)
    assert packed.shape == (64, packed_columns(512))
    assert packed.numel() / numbers.numel() == 0.5625
    assert ((unpack(packed, torch.float32) - numbers).norm() / numbers.norm()) < 0.1
    assert unpack(packed, torch.bfloat16).dtype == torch.bfloat16


def stepped(optimizer: torch.optim.Optimizer, value: nn.Parameter, gradients: list[Tensor]) -> None:
    for gradient in gradients:
        value.grad = gradient.clone()
        optimizer.step()


def test_moments_in_codes_follow_adamw_and_throw_no_weight_away() -> None:
    # Sizes differ by orders of magnitude in a block. A second moment rounded to zero would throw
    # weights hundreds of units away; the least code instead holds the smallest numbers back.
    start = drawn(16, 2048)
    first, second = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    sizes = torch.rand(2048, generator=torch.Generator().manual_seed(2)) ** 4
    gradients = [drawn(16, 2048, seed=seed) * sizes for seed in range(20)]
    stepped(AdamW8bit([first], lr=1e-2), first, gradients)
    stepped(torch.optim.AdamW([second], lr=1e-2, weight_decay=0.0), second, gradients)
    farthest = (second - start).abs().max()
    assert (first - start).abs().max() < 1.05 * farthest
    near = (first - second).abs()[:, sizes > 1e-2]  # within a hundredth of the largest
    assert near.max() < 0.05
    assert near.mean() < 2e-3


def test_vectors_and_odd_matrices_keep_full_moments() -> None:
    for shape in ((64,), (8, 24)):
        value = nn.Parameter(drawn(*shape))
        other = nn.Parameter(value.detach().clone())
        gradients = [drawn(*shape, seed=seed) for seed in range(5)]
        stepped(AdamW8bit([value], lr=1e-2), value, gradients)
        stepped(torch.optim.AdamW([other], lr=1e-2, weight_decay=0.0), other, gradients)
        torch.testing.assert_close(value, other, rtol=0, atol=1e-6)


def test_moments_take_a_byte_a_number_and_a_scale_a_block() -> None:
    value = nn.Parameter(drawn(32, 4096))
    optimizer = AdamW8bit([value], lr=1e-3)
    stepped(optimizer, value, [drawn(32, 4096)])
    held = sum(kept.nbytes for name, kept in optimizer.state[value].items() if name != "step")
    assert held / value.numel() == 2 + 8 / moment_block(4096)


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="closure"):
        AdamW8bit([nn.Parameter(drawn(2))], lr=1.0).step(lambda: 0.0)
