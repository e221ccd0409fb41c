"""Rows into micro-batches: every row once, none too large, ranks alike, and little padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from parity import tiny
from parity.tiny import make_plan
from qwenft_trainer.arrange import SET_UP, Groups, arrange, is_free
from qwenft_trainer.batch import Batch
from qwenft_trainer.loss import IGNORED
from qwenft_trainer.model import Stage, checked_config, slices

pytestmark = pytest.mark.torch

WIDTHS = some.lists(some.integers(1, 300), min_size=1, max_size=60)
RANKS = some.integers(1, 5)


def positions(widths: list[int], groups: Groups) -> int:
    return sum(len(group) * max(widths[row] for row in group) for group in groups if group)


@given(WIDTHS, RANKS, some.integers(1, 2000))
@settings(max_examples=300, deadline=None)
def test_every_row_is_run_once(widths: list[int], ranks: int, most: int) -> None:
    found = arrange(widths, ranks=ranks, most=most)
    assert sorted(i for groups in found for group in groups for i in group) == list(
        range(len(widths))
    )


@given(WIDTHS, RANKS, some.integers(1, 2000))
@settings(max_examples=300, deadline=None)
def test_no_micro_batch_is_larger_than_what_memory_was_planned_for(
    widths: list[int], ranks: int, most: int
) -> None:
    for groups in arrange(widths, ranks=ranks, most=most):
        for group in groups:
            assert positions(widths, (group,)) <= max(most, *widths)


@given(WIDTHS, RANKS, some.integers(1, 2000))
@settings(max_examples=300, deadline=None)
def test_all_ranks_run_equally_many(widths: list[int], ranks: int, most: int) -> None:
    """Each must join in the collectives of every micro-batch."""
    found = arrange(widths, ranks=ranks, most=most)
    assert len(found) == ranks
    assert len({len(groups) for groups in found}) == 1


@given(WIDTHS, RANKS)
@settings(max_examples=300, deadline=None)
def test_the_slowest_rank_is_never_slower_than_with_rows_as_they_come(
    widths: list[int], ranks: int
) -> None:
    size = -(-len(widths) // ranks)
    shares = [tuple(range(i, min(i + size, len(widths)))) for i in range(0, len(widths), size)]
    plain = SET_UP + max(positions(widths, (share,)) for share in shares)
    found = arrange(widths, ranks=ranks, most=10**9)
    cost = max(positions(widths, groups) for groups in found) + SET_UP * len(found[0])
    assert cost <= plain


def test_few_long_rows_weigh_as_much_as_many_short_ones() -> None:
    assert arrange([100, 20, 20, 20, 20, 20], ranks=2, most=1000) == (((0,),), ((1, 2, 3, 4, 5),))


def test_one_rank_runs_long_rows_apart_from_short_ones() -> None:
    assert arrange([1000, 10, 1000, 10, 10], ranks=1, most=10_000) == (((0, 2), (1, 3, 4)),)


def test_a_micro_batch_is_not_begun_for_little_padding() -> None:
    assert arrange([100, 10, 100, 10], ranks=1, most=10_000) == (((0, 2, 1, 3),),)


def test_a_rank_without_rows_has_an_empty_one() -> None:
    assert arrange([10], ranks=3, most=100) == (((0,),), ((),), ((),))


def test_a_large_step_is_arranged_alike_everywhere() -> None:
    widths = [(37 * i) % 901 + 1 for i in range(2000)]
    assert arrange(widths, ranks=8, most=9000) == arrange(list(widths), ranks=8, most=9000)


@pytest.mark.parametrize(
    ("degrees", "free"),
    [({}, True), ({"dp_shard": 2}, True), ({"dp_replicate": 2}, True), ({"tp": 2}, False),
     ({"pp": 2, "accumulation": 2}, False)],
)  # fmt: skip
def test_pipelines_and_split_layers_keep_one_shape(degrees: dict[str, int], free: bool) -> None:  # noqa: FBT001
    assert is_free(make_plan(**degrees)) is free


def uneven() -> Batch:
    """Rows trained up to positions of their own, one of them not at all, prompts in front."""
    raw = tiny.make_batches(1)[0]
    labels = raw["labels"].clone()
    labels[2] = IGNORED
    labels[:, :3] = IGNORED
    return Batch.from_rows(raw["input_ids"], labels, raw["attention_mask"])


def test_a_row_is_as_wide_as_what_is_trained_of_it() -> None:
    labels = torch.tensor([[1, 2, 3, IGNORED], [1, IGNORED, IGNORED, IGNORED], [1, 2, 3, 4]])
    assert Batch.from_rows(labels.clamp(min=0), labels).widths() == [2, 1, 3]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_micro_batches_train_the_rows_and_nothing_else(ranks: int) -> None:
    batch = uneven()
    found = [batch.micro_batches(ranks=ranks, most=200, rank=rank) for rank in range(ranks)]
    assert sum(int(one.trained_tokens) for part in found for one in part) == batch.trained_tokens
    assert all(len(one) * one.length <= 200 for part in found for one in part)


@pytest.mark.parametrize("ranks", [1, 2, 20])
def test_loss_and_gradients_are_those_of_the_whole_batch(ranks: int) -> None:
    """Trimmed, regrouped, over more ranks than there are rows: the sums stay the same."""
    torch.manual_seed(0)
    stage = Stage(checked_config(tiny.make_config()), slices(4, 1)[0])
    batch = uneven()
    parts = [
        one
        for rank in range(ranks)
        for one in batch.micro_batches(ranks=ranks, most=150, rank=rank)
    ]

    def run(batches: list[Batch]) -> torch.Tensor:
        stage.zero_grad()
        total = torch.cat([stage(one.input_ids, **one.context()) for one in batches]).sum()
        total.backward()
        gradients = [value.grad.flatten() for value in stage.parameters() if value.grad is not None]
        return torch.cat([total.detach()[None], *gradients])

    torch.testing.assert_close(run(parts), run([batch]), atol=1e-5, rtol=1e-5)
