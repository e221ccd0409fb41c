"""From a step's number to rows: every plan and every attempt sees the same samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch

from launching.fleet import standing_as
from launching.plans import make_plan
from qwenft_plan.plan import Plan
from qwenft_trainer.data import Dataset
from qwenft_trainer.feed import Feed, build_feed

pytestmark = pytest.mark.torch

T = TypeVar("T")
SAMPLES = 23
LIMIT = 6
PLANS = {
    "plain": make_plan(rows=8),
    "replicate 4": make_plan(processes_per_node=4, rows=8),
    "shard 2 × tp 2": make_plan(processes_per_node=4, rows=8, dp_shard=2, tp=2),
    "replicate 2 × shard 2": make_plan(
        processes_per_node=4, rows=8, dp_replicate=2, dp_shard=2, accumulation=2
    ),
}


def dataset(samples: int = SAMPLES) -> Dataset:
    """Return samples of lengths 1 to 9 whose first token is the sample's own number."""
    lengths = [1 + n % 9 for n in range(samples)]
    tokens = [torch.cat((torch.tensor([n]), torch.full((size - 1,), 99))) for n, size
              in enumerate(lengths)]  # fmt: skip
    flat = torch.cat(tokens).to(torch.int32)
    trained = torch.ones(len(flat), dtype=torch.bool)
    trained[torch.arange(0, len(flat), 5)] = False
    return Dataset(tokens=flat, trained=trained, offsets=torch.tensor([0, *lengths]).cumsum(0))


def on_every_rank(plan: Plan, use: Callable[[Feed], T], *, seed: int = 0) -> list[T]:
    """Return what ``use`` makes of each rank's feed."""
    found = []
    for rank in range(plan.world_size):
        with standing_as(rank, plan) as mesh:
            feed = build_feed(dataset(), plan, mesh, seed=seed, sequence_length=LIMIT)
            found.append(use(feed))
    return found


def schedule(feed: Feed) -> list[list[int]]:
    """Return the samples of two epochs' steps."""
    return [feed.samples(step) for step in range(2 * feed.steps_per_epoch)]


def test_the_same_step_is_the_same_samples_under_every_plan_and_on_every_rank() -> None:
    found = [each for plan in PLANS.values() for each in on_every_rank(plan, schedule)]
    assert len(found) == 1 + 4 + 4 + 4
    assert all(each == found[0] for each in found)


def test_an_epoch_sees_no_sample_twice_and_drops_the_last_part_batch() -> None:
    (steps,) = on_every_rank(PLANS["plain"], schedule)
    assert [len(samples) for samples in steps] == [8] * 4
    for epoch in (steps[:2], steps[2:]):
        seen = [sample for samples in epoch for sample in samples]
        assert len(set(seen)) == 16
    assert steps[:2] != steps[2:]


def test_a_step_asked_for_out_of_turn_is_the_same_step() -> None:
    def backwards(feed: Feed) -> bool:
        forwards = schedule(feed)
        return [feed.samples(step) for step in (3, 0, 2, 1)] == [forwards[i] for i in (3, 0, 2, 1)]

    assert on_every_rank(PLANS["plain"], backwards) == [True]


def test_another_seed_is_another_order() -> None:
    one, two = (on_every_rank(PLANS["plain"], schedule, seed=seed) for seed in (0, 1))
    assert one != two


@pytest.mark.parametrize("name", PLANS)
def test_the_ranks_rows_together_are_the_global_batch_in_order(name: str) -> None:
    plan = PLANS[name]

    def firsts(feed: Feed) -> tuple[list[int], list[int]]:
        samples = feed.samples(1)
        return samples, feed.batch(samples).input_ids[:, 0].tolist()

    found = on_every_rank(plan, firsts)
    data_parallel = found[:: plan.tp]
    assert sum((rows for _, rows in data_parallel), []) == found[0][0]  # noqa: RUF017 - few rows
    for begin in range(0, plan.world_size, plan.tp):
        assert found[begin] == found[begin + plan.tp - 1]


@pytest.mark.parametrize("count", [1, 3, 5, 8])
@pytest.mark.parametrize("name", PLANS)
def test_a_part_batch_is_trained_exactly_once_over_all_ranks(name: str, count: int) -> None:
    plan, samples = PLANS[name], list(range(8, 8 + count))

    def trained(feed: Feed) -> tuple[int, int]:
        return int(feed.batch(samples).trained_tokens), feed.trained_tokens(samples)

    found = on_every_rank(plan, trained)
    assert sum(mine for mine, _ in found[:: plan.tp]) == found[0][1]
    assert len({expected for _, expected in found}) == 1


def test_longer_samples_are_cut_and_counted_as_cut() -> None:
    def counts(feed: Feed) -> None:
        for sample in range(SAMPLES):
            batch = feed.batch([sample])
            assert batch.length == min(1 + sample % 9, LIMIT)
            assert feed.tokens([sample]) == batch.length
            assert feed.trained_tokens([sample]) == int(batch.trained_tokens)

    on_every_rank(PLANS["plain"], counts)


def test_evaluation_walks_over_every_sample_once_in_the_files_own_order() -> None:
    (chunks,) = on_every_rank(PLANS["plain"], lambda feed: list(feed.chunks()))
    assert sum(chunks, []) == list(range(SAMPLES))  # noqa: RUF017 - few rows
    assert [len(chunk) for chunk in chunks] == [8, 8, 7]
