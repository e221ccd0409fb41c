"""Rows on their way into a model: labels shifted once, padding that changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from launching.fleet import standing_as
from launching.plans import make_plan
from qwenft_trainer.batch import Batch, local_rows, round_up

pytestmark = pytest.mark.torch

IGNORED = -100


def rows(*texts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad at the end by 0, as a script's collator does: inputs, labels, mask."""
    length = max(map(len, texts))
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    return ids, ids.masked_fill(mask == 0, IGNORED), mask


def test_each_position_has_the_next_token_as_its_target() -> None:
    batch = Batch.from_rows(*rows([5, 6, 7, 8], [1, 2]))
    assert batch.targets.tolist() == [
        [6, 7, 8, IGNORED],
        [2, IGNORED, IGNORED, IGNORED],
    ]


def test_targets_give_the_loss_of_a_shifted_model() -> None:
    ids, labels, mask = rows([5, 6, 7, 8], [1, 2])
    logits = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
    theirs = functional.cross_entropy(
        logits[:, :-1].reshape(-1, 10), labels[:, 1:].reshape(-1), ignore_index=IGNORED
    )
    batch = Batch.from_rows(ids, labels, mask)
    ours = functional.cross_entropy(
        logits.reshape(-1, 10), batch.targets.reshape(-1), ignore_index=IGNORED
    )
    assert torch.allclose(ours, theirs)


def test_trained_tokens_counts_targets_not_labels() -> None:
    assert int(Batch.from_rows(*rows([5, 6, 7, 8], [1, 2])).trained_tokens) == 3 + 1


def test_positions_count_from_the_begin_of_each_row() -> None:
    assert Batch.from_rows(*rows([5, 6, 7], [1])).position_ids.tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("mask", "segments"),
    [
        ([[1, 1, 1, 1]], None),
        ([[1, 1, 0, 0]], None),
        ([[1, 0, 0, 0]], None),
        ([[0, 1, 1, 1]], [[0, 1, 1, 1]]),
        ([[1, 0, 1, 1]], [[1, 0, 1, 1]]),
        ([[0, 0, 0, 0]], [[0, 0, 0, 0]]),
        ([[1, 1, 0, 0], [0, 1, 1, 1]], [[1, 1, 0, 0], [0, 1, 1, 1]]),
    ],
)
def test_only_padding_before_a_token_needs_a_mask_of_its_own(
    mask: list[list[int]], segments: list[list[int]] | None
) -> None:
    ids = torch.ones(len(mask), 4, dtype=torch.int64)
    batch = Batch.from_rows(ids, ids, torch.tensor(mask))
    assert (None if batch.segments is None else batch.segments.tolist()) == segments


def test_without_a_mask_there_are_no_segments() -> None:
    ids = torch.ones(2, 3, dtype=torch.int64)
    assert Batch.from_rows(ids, ids).segments is None


def test_unequal_samples_are_padded_as_a_script_pads_them() -> None:
    texts = [[5, 6, 7, 8], [1, 2], [3]]
    samples = [torch.tensor(text) for text in texts]
    found, expected = Batch.from_samples(samples, samples), Batch.from_rows(*rows(*texts))
    for name, value in expected.tensors().items():
        assert torch.equal(found.tensors()[name], value), name


def test_context_labels_of_a_sample_stay_context() -> None:
    labels = torch.tensor([IGNORED, IGNORED, 7])
    batch = Batch.from_samples([torch.tensor([5, 6, 7])], [labels])
    assert batch.targets.tolist() == [[IGNORED, 7, IGNORED]]


@pytest.mark.parametrize("mask", [None, torch.tensor([[0, 1, 1]] * 4)])
def test_rows_and_micro_batches_are_consecutive_cuts(mask: Tensor | None) -> None:
    ids = torch.arange(12).reshape(4, 3)
    batch = Batch.from_rows(ids, ids, mask)
    assert batch.rows(slice(1, 3)).input_ids.tolist() == [[3, 4, 5], [6, 7, 8]]
    parts = batch.split(2)
    assert [len(part) for part in parts] == [2, 2]
    for name, value in batch.tensors().items():
        assert torch.equal(torch.cat([part.tensors()[name] for part in parts]), value)


def test_a_last_micro_batch_may_be_smaller() -> None:
    ids = torch.arange(15).reshape(5, 3)
    assert [len(part) for part in Batch.from_rows(ids, ids).split(2)] == [2, 2, 1]


def test_growing_adds_nothing_to_train_and_changes_nothing_that_was_there() -> None:
    batch = Batch.from_rows(*rows([5, 6, 7], [1, 2]))
    grown = batch.padded(rows=4, length=6)
    assert (len(grown), grown.length) == (4, 6)
    assert int(grown.trained_tokens) == int(batch.trained_tokens)
    for name, value in batch.tensors().items():
        assert torch.equal(grown.tensors()[name][:2, :3], value)
    assert (grown.targets[2:] == IGNORED).all()
    assert (grown.targets[:, 3:] == IGNORED).all()


def test_growing_keeps_segments_and_marks_what_was_added_as_padding() -> None:
    ids = torch.ones(1, 3, dtype=torch.int64)
    batch = Batch.from_rows(ids, ids, torch.tensor([[0, 1, 1]]))
    grown = batch.padded(rows=2, length=4)
    assert grown.segments is not None
    assert grown.segments.tolist() == [[0, 1, 1, 0], [0, 0, 0, 0]]


def test_a_batch_of_the_right_size_is_not_copied() -> None:
    batch = Batch.from_rows(*rows([5, 6, 7]))
    assert batch.padded(rows=1, length=3) is batch


def test_a_rank_without_samples_of_its_own_trains_nothing_on_borrowed_ones() -> None:
    batch = Batch.from_rows(*rows([5, 6, 7], [1, 2]))
    assert int(batch.untrained().trained_tokens) == 0
    assert torch.equal(batch.untrained().input_ids, batch.input_ids)
    assert int(batch.trained_tokens) == 3


def test_a_pipeline_stage_gets_all_but_the_inputs() -> None:
    batch = Batch.from_rows(*rows([5, 6, 7]))
    assert sorted(batch.context()) == ["position_ids", "targets"]


def test_moving_keeps_every_tensor() -> None:
    ids = torch.ones(1, 3, dtype=torch.int64)
    batch = Batch.from_rows(ids, ids, torch.tensor([[0, 1, 1]]))
    moved = batch.to(torch.device("meta"))
    assert {name: value.device.type for name, value in moved.tensors().items()} == dict.fromkeys(
        ("input_ids", "targets", "position_ids", "segments"), "meta"
    )


@pytest.mark.parametrize(
    ("number", "multiple", "expected"),
    [(0, 8, 0), (1, 8, 8), (8, 8, 8), (9, 8, 16), (7, 1, 7)],
)
def test_rounding_up(number: int, multiple: int, expected: int) -> None:
    assert round_up(number, multiple) == expected


@pytest.mark.parametrize(
    "degrees",
    [
        {},
        {"dp_shard": 4},
        {"dp_replicate": 2, "dp_shard": 2},
        {"dp_replicate": 2, "tp": 2},
        {"dp_shard": 2, "pp": 2, "accumulation": 2},
    ],
    ids=str,
)
def test_the_data_parallel_ranks_share_a_global_batch_without_gap_or_overlap(
    degrees: dict[str, int],
) -> None:
    plan = make_plan(processes_per_node=4, rows=8, **degrees)
    shares: dict[int, set[tuple[int, int]]] = {}
    for rank in range(plan.world_size):
        with standing_as(rank, plan) as mesh:
            share = local_rows(8, plan, mesh)
            shares.setdefault(share.start, set()).add((share.start, share.stop))
    size = 8 // plan.dp
    assert shares == {begin: {(begin, begin + size)} for begin in range(0, 8, size)}
