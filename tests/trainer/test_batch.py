"""Rows of tokens: shifting, padding, sharing out; nothing of it may change what is trained."""

import pytest
import torch

from parity.tiny import make_plan
from qwenft_trainer.batch import Batch, round_up
from qwenft_trainer.loss import IGNORED

pytestmark = pytest.mark.torch


def batch(rows: int = 2, length: int = 5, *, mask: list[list[int]] | None = None) -> Batch:
    tokens = torch.arange(rows * length).reshape(rows, length)
    attention = None if mask is None else torch.tensor(mask)
    labels = tokens if attention is None else tokens.masked_fill(attention == 0, IGNORED)
    return Batch.from_rows(tokens, labels, attention)


def test_each_position_predicts_the_next_token() -> None:
    found = batch(1, 4)
    assert found.targets.tolist() == [[1, 2, 3, IGNORED]]


def test_the_first_token_is_never_a_target() -> None:
    labels = torch.tensor([[7, IGNORED, IGNORED]])
    found = Batch.from_rows(torch.tensor([[7, 8, 9]]), labels)
    assert int(found.trained_tokens) == 0


def test_padding_is_not_trained() -> None:
    found = batch(2, 5, mask=[[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    assert found.targets[0].tolist() == [1, 2, IGNORED, IGNORED, IGNORED]
    assert int(found.trained_tokens) == 2 + 4


def test_positions_count_from_the_begin_of_a_row() -> None:
    assert batch(3, 4).position_ids.tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize(
    ("mask", "plain"),
    [
        ([[1, 1, 1, 1, 1]], True),
        ([[1, 1, 1, 0, 0]], True),
        ([[1, 0, 0, 0, 0]], True),
        ([[0, 0, 1, 1, 1]], False),
        ([[1, 0, 1, 1, 1]], False),
        ([[0, 0, 0, 0, 0]], False),
    ],
)
def test_only_a_mask_that_is_not_padding_at_the_end_is_kept(
    mask: list[list[int]], *, plain: bool
) -> None:
    found = batch(1, 5, mask=mask)
    assert (found.segments is None) == plain


def test_unequal_samples_are_padded_to_the_longest() -> None:
    samples = [torch.tensor([5, 6, 7]), torch.tensor([8, 9])]
    found = Batch.from_samples(samples, samples)
    assert found.input_ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert found.targets.tolist() == [[6, 7, IGNORED], [9, IGNORED, IGNORED]]


def test_growing_adds_nothing_to_train() -> None:
    small = batch(2, 5, mask=[[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    grown = small.padded(rows=4, length=8)
    assert len(grown) == 4
    assert grown.length == 8
    assert int(grown.trained_tokens) == int(small.trained_tokens)
    assert grown.segments is not None
    assert grown.segments.shape == (4, 8)


def test_growing_by_nothing_is_free() -> None:
    small = batch()
    assert small.padded(rows=2, length=5) is small


def test_splitting_and_joining_loses_no_row() -> None:
    whole = batch(6, 3)
    parts = whole.split(2)
    assert [len(part) for part in parts] == [2, 2, 2]
    assert torch.equal(torch.cat([part.input_ids for part in parts]), whole.input_ids)
    assert sum(int(part.trained_tokens) for part in parts) == int(whole.trained_tokens)


def test_an_untrained_batch_keeps_its_shape() -> None:
    found = batch(2, 5).untrained()
    assert int(found.trained_tokens) == 0
    assert found.input_ids.shape == (2, 5)


def test_context_is_all_but_the_tokens() -> None:
    assert set(batch().context()) == {"targets", "position_ids"}
    masked = batch(1, 5, mask=[[0, 1, 1, 1, 1]])
    assert set(masked.context()) == {"targets", "position_ids", "segments"}


def test_moving_keeps_every_tensor() -> None:
    masked = batch(1, 5, mask=[[0, 1, 1, 1, 1]])
    moved = masked.to(torch.device("cpu"))
    assert moved.tensors().keys() == masked.tensors().keys()


@pytest.mark.parametrize(
    ("number", "multiple", "expected"),
    [(1, 4, 4), (4, 4, 4), (5, 4, 8), (0, 4, 0), (7, 1, 7), (65, 64, 128)],
)
def test_rounding_up(number: int, multiple: int, expected: int) -> None:
    assert round_up(number, multiple) == expected


def test_the_plan_of_the_harness_is_consistent() -> None:
    plan = make_plan(dp_shard=2, tp=2, pp=2, accumulation=2)
    assert plan.world_size == 8
    assert plan.micro_batch_size == 2
