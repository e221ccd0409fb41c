"""A step's rows on real meshes: the same samples everywhere, shared out without gap or overlap."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from launching.fleet import standing_as
from launching.plans import make_plan
from qwenft_trainer.batch import Batch, local_rows
from qwenft_trainer.data import Dataset
from qwenft_trainer.feed import Feed, build_feed

pytestmark = pytest.mark.torch

IGNORED = -100
DEGREES = [
    {},
    {"dp_shard": 4},
    {"dp_replicate": 2, "dp_shard": 2},
    {"dp_replicate": 2, "tp": 2},
    {"dp_shard": 2, "pp": 2, "accumulation": 2},
]


def dataset(samples: int) -> Dataset:
    """Return samples of two tokens, the first of which is the sample's own number."""
    tokens = torch.stack((torch.arange(samples), torch.full((samples,), 99)), dim=1).flatten()
    return Dataset(
        tokens=tokens.to(torch.int32),
        trained=torch.ones(len(tokens), dtype=torch.bool),
        offsets=torch.arange(0, 2 * samples + 1, 2),
    )


def schedule(feed: Feed) -> list[list[int]]:
    """Return the samples of two epochs' steps."""
    return [feed.samples(step) for step in range(2 * feed.steps_per_epoch)]


@pytest.mark.parametrize("degrees", DEGREES, ids=str)
def test_the_data_parallel_ranks_share_a_global_batch_without_gap_or_overlap(
    degrees: dict[str, int],
) -> None:
    plan = make_plan(processes_per_node=4, rows=8, **degrees)
    shares = []
    for rank in range(plan.world_size):
        with standing_as(rank, plan) as mesh:
            share = local_rows(8, plan, mesh)
            shares.append((share.start, share.stop))
    size = 8 // plan.dp
    assert sorted(set(shares)) == [(begin, begin + size) for begin in range(0, 8, size)]
    copies = plan.world_size // plan.dp
    assert all(shares.count(share) == copies for share in shares)


@pytest.mark.parametrize("degrees", DEGREES, ids=str)
def test_a_step_is_the_same_samples_on_every_rank_and_as_on_one_process(
    degrees: dict[str, int],
) -> None:
    found = []
    for plan in (make_plan(rows=8), make_plan(processes_per_node=4, rows=8, **degrees)):
        for rank in range(plan.world_size):
            with standing_as(rank, plan) as mesh:
                feed = build_feed(dataset(23), plan, mesh, seed=0, sequence_length=6)
                found.append(schedule(feed))
    assert len(found) == 5
    assert all(each == found[0] for each in found)
    assert [len(samples) for samples in found[0]] == [8] * 4


def test_a_step_asked_for_out_of_turn_is_the_same_step() -> None:
    plan = make_plan(rows=8)
    with standing_as(0, plan) as mesh:
        feed = build_feed(dataset(23), plan, mesh, seed=0, sequence_length=6)
        forwards = schedule(feed)
        assert [feed.samples(step) for step in (3, 0, 2, 1)] == [forwards[i] for i in (3, 0, 2, 1)]


def test_targets_give_the_loss_of_a_shifted_model() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [1, 2, 0, 0]])
    labels = torch.tensor([[5, 6, 7, 8], [1, 2, IGNORED, IGNORED]])
    logits = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
    theirs = functional.cross_entropy(
        logits[:, :-1].reshape(-1, 10), labels[:, 1:].reshape(-1), ignore_index=IGNORED
    )
    targets = Batch.from_rows(ids, labels).targets
    ours = functional.cross_entropy(
        logits.reshape(-1, 10), targets.reshape(-1), ignore_index=IGNORED
    )
    assert torch.allclose(ours, theirs)


def test_context_labels_of_a_sample_stay_context() -> None:
    labels = torch.tensor([IGNORED, IGNORED, 7])
    batch = Batch.from_samples([torch.tensor([5, 6, 7])], [labels])
    assert batch.targets.tolist() == [[IGNORED, 7, IGNORED]]


def test_growing_keeps_segments_and_marks_what_was_added_as_padding() -> None:
    ids = torch.ones(1, 3, dtype=torch.int64)
    batch = Batch.from_rows(ids, ids, torch.tensor([[0, 1, 1]]))
    grown = batch.padded(rows=2, length=4)
    assert grown.segments is not None
    assert grown.segments.tolist() == [[0, 1, 1, 0], [0, 0, 0, 0]]
