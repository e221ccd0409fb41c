"""Packing: fewer rows, every sample whole, and the loss of one sample a row."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from parity import tiny
from qwenft_trainer.batch import Batch
from qwenft_trainer.loss import IGNORED
from qwenft_trainer.model import Stage, checked_config, slices
from qwenft_trainer.packing import pack, packed

pytestmark = pytest.mark.torch

LENGTHS = some.lists(some.integers(1, 64), min_size=1, max_size=40)


@given(LENGTHS)
@settings(max_examples=200, deadline=None)
def test_every_sample_has_one_place(lengths: list[int]) -> None:
    rows = pack(lengths)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))


@given(LENGTHS)
@settings(max_examples=200, deadline=None)
def test_no_row_is_wider_than_the_longest_sample(lengths: list[int]) -> None:
    widths = [sum(lengths[place] for place in row) for row in pack(lengths)]
    assert max(widths) == max(lengths)


@given(LENGTHS)
@settings(max_examples=200, deadline=None)
def test_there_are_never_two_rows_that_would_fit_into_one(lengths: list[int]) -> None:
    widths = sorted(sum(lengths[place] for place in row) for row in pack(lengths))
    if len(widths) > 1:
        assert widths[0] + widths[1] > max(lengths)


def test_equal_samples_keep_a_row_each() -> None:
    assert pack([5, 5, 5]) == ((0,), (1,), (2,))


def test_short_samples_fill_up_behind_long_ones() -> None:
    assert pack([2, 8, 6, 2]) == ((1,), (2, 0), (3,))


def test_the_layout_is_the_same_on_every_rank() -> None:
    lengths = [7, 3, 3, 9, 1, 5, 5, 2]
    assert pack(lengths) == pack(list(lengths))


def samples(count: int = 9) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(3, 30, (count,), generator=generator).tolist()
    tokens = [torch.randint(0, tiny.VOCABULARY, (n,), generator=generator) for n in lengths]
    labels = [row.clone() for row in tokens]
    for row in labels[::2]:
        row[:2] = IGNORED  # a prompt that is not trained
    return tokens, labels


def test_positions_begin_anew_with_each_sample() -> None:
    tokens = [torch.tensor([5, 6, 7]), torch.tensor([8, 9])]
    batch = packed(tokens, tokens, [[0, 1]])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.segments is not None
    assert batch.segments.tolist() == [[1, 1, 1, 2, 2]]


def test_no_sample_predicts_its_neighbours_first_token() -> None:
    tokens = [torch.tensor([5, 6, 7]), torch.tensor([8, 9])]
    assert packed(tokens, tokens, [[0, 1]]).targets.tolist() == [[6, 7, IGNORED, 9, IGNORED]]


def test_as_many_tokens_are_trained_as_unpacked() -> None:
    tokens, labels = samples()
    rows = pack([len(row) for row in tokens])
    assert len(rows) < len(tokens)
    one_a_row = Batch.from_samples(tokens, labels)
    assert torch.equal(packed(tokens, labels, rows).trained_tokens, one_a_row.trained_tokens)


@pytest.fixture(scope="module")
def total() -> Callable[[Batch], torch.Tensor]:
    torch.manual_seed(0)
    config = checked_config(tiny.make_config(num_key_value_heads=2))
    stage = Stage(config, slices(4, 1)[0])

    def loss(batch: Batch) -> torch.Tensor:
        stage.zero_grad()
        found: torch.Tensor = stage(batch.input_ids, **batch.context())
        found.sum().backward()
        gradients = [value.grad.norm() for value in stage.parameters() if value.grad is not None]
        return torch.stack([found.detach()[0], torch.stack(gradients).norm()])

    return loss


def test_the_loss_and_the_gradient_are_those_of_one_sample_a_row(
    total: Callable[[Batch], torch.Tensor],
) -> None:
    tokens, labels = samples()
    together = packed(tokens, labels, pack([len(row) for row in tokens]))
    apart = Batch.from_samples(tokens, labels)
    torch.testing.assert_close(total(together), total(apart), atol=1e-5, rtol=1e-5)


def test_without_segments_samples_would_leak_into_each_other(
    total: Callable[[Batch], torch.Tensor],
) -> None:
    tokens, labels = samples()
    together = packed(tokens, labels, pack([len(row) for row in tokens]))
    leaking = Batch(
        input_ids=together.input_ids,
        targets=together.targets,
        position_ids=together.position_ids,
    )
    difference = (total(together)[0] - total(leaking)[0]).abs()
    assert float(difference) > 1e-2
