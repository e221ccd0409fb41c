"""Numbers in few bits: codes from a book of 16 or 256 values, and a scale for each block of a row.

Blocks never cross rows, so the codes of a matrix's shard are a shard of the matrix's codes: what
one plan has made, every other plan reads. The 8-bit book for an optimizer's moments is that of
Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861); the 4-bit one
for weights is the NormalFloat of "QLoRA" (arXiv 2305.14314).
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

CHUNK = 1 << 22
"""Numbers that are worked on at once, so that what is needed for the moment stays small."""
NF4_BLOCK = 64
_LEAST = 1e-12  # of a scale, for blocks of zeros
_NORMAL_FLOAT = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """The values that codes stand for, in rising order, and the middles between neighbours."""

    values: Tensor
    middles: Tensor


@lru_cache(maxsize=8)
def signed_book(device: torch.device) -> Book:
    """Return the 256 values for numbers of both signs."""
    return _book([sign * value for value in _decades(1) for sign in (-1.0, 1.0)], device)


@lru_cache(maxsize=8)
def unsigned_book(device: torch.device) -> Book:
    """Return the 256 values for numbers that are never negative: twice as fine."""
    return _book(_decades(2), device)


@lru_cache(maxsize=8)
def normal_book(device: torch.device) -> Book:
    """Return the 16 values that are equally likely among normally distributed numbers."""
    return _sorted(_NORMAL_FLOAT, device)


def encode(numbers: Tensor, book: Book, block: int) -> tuple[Tensor, Tensor]:
    """Return the codes [R, C] (uint8) of `numbers` [R, C] and the scales [R, C / block] (fp32).

    The nearest value is taken, the larger one of two that are as near.
    """
    rows = numbers.float().reshape(numbers.shape[0], -1, block)
    scale = rows.abs().amax(-1).clamp_(min=_LEAST)
    found = torch.bucketize(rows / scale[..., None], book.middles, right=True, out_int32=True)
    return found.to(torch.uint8).flatten(-2), scale


def decode(codes: Tensor, scale: Tensor, book: Book) -> Tensor:
    """Return the numbers [R, C] in fp32 that :func:`encode` gave the codes of."""
    values = book.values[codes.int()].view(*scale.shape, -1)
    return values.mul_(scale[..., None]).flatten(-2)


def rows_at_once(columns: int) -> int:
    """Return how many rows make up a chunk."""
    return max(1, CHUNK // columns)


def packed_columns(columns: int) -> int:
    """Return the bytes of a row of `columns` 4-bit numbers, its scales included."""
    return columns // 2 + 4 * (columns // NF4_BLOCK)


def pack(numbers: Tensor) -> Tensor:
    """Return `numbers` [R, C] in 4 bits: [R, C / 2 + C / 16] bytes, codes and then fp32 scales.

    One tensor of bytes, because ranks shard, gather and never cast it as a whole.
    """
    step = rows_at_once(numbers.shape[1])
    if not len(numbers):  # a rank without rows of a matrix that has fewer than there are ranks
        return torch.empty(0, packed_columns(numbers.shape[1]), dtype=torch.uint8)
    return torch.cat([_pack(numbers[at : at + step]) for at in range(0, len(numbers), step)])


def unpack(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what :func:`pack` packed, as `dtype` [R, C]."""
    columns = unpacked_columns(packed.shape[1])
    made = torch.empty(packed.shape[0], columns, dtype=dtype, device=packed.device)
    step = rows_at_once(columns)
    for at in range(0, len(packed), step):
        made[at : at + step] = _unpack(packed[at : at + step], columns // 2)
    return made


def unpacked_columns(width: int) -> int:
    """Return the numbers of a row of `width` bytes."""
    return width * 16 // 9


def _pack(numbers: Tensor) -> Tensor:
    codes, scale = encode(numbers, normal_book(numbers.device), NF4_BLOCK)
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]
    return torch.cat((pairs, scale.view(torch.uint8)), dim=1)


def _unpack(packed: Tensor, half: int) -> Tensor:
    pairs, scale = packed[:, :half], packed[:, half:].contiguous().view(torch.float32)
    codes = torch.stack((pairs >> 4, pairs & 15), dim=-1).flatten(-2)
    return decode(codes, scale, normal_book(packed.device))


def _decades(fineness: int) -> list[float]:
    """Return values that are spaced evenly within each power of ten, the finer the larger."""
    found: list[float] = []
    for power in range(7):
        edges = torch.linspace(0.1, 1.0, fineness * 2**power + 1)
        found += (10.0 ** (power - 6) * (edges[:-1] + edges[1:]) / 2).tolist()
    return found


def _book(values: list[float], device: torch.device) -> Book:
    return _sorted((*values, 0.0, 1.0), device)


def _sorted(values: tuple[float, ...], device: torch.device) -> Book:
    rising = torch.tensor(sorted(values), dtype=torch.float32, device=device)
    return Book(values=rising, middles=(rising[:-1] + rising[1:]) / 2)
