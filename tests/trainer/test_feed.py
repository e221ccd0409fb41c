"""From a step's number to samples: each exactly once an epoch, whatever the plan."""

from collections.abc import Sequence

import pytest
import torch

from parity.tiny import make_plan
from qwenft_plan.plan import Plan
from qwenft_trainer import feed as feeds
from qwenft_trainer.batch import Batch
from qwenft_trainer.data import Dataset
from qwenft_trainer.feed import Feed, build_feed

pytestmark = pytest.mark.torch


def dataset(lengths: Sequence[int], *, context: int = 0) -> Dataset:
    """Sample i holds the tokens i·100, i·100 + 1, …; its first ``context`` are not trained."""
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    tokens = torch.cat([torch.arange(n) + 100 * i for i, n in enumerate(lengths)]).int()
    trained = torch.cat([torch.arange(n) >= context for n in lengths])
    return Dataset(tokens=tokens, trained=trained, offsets=offsets)


def feed_of(
    monkeypatch: pytest.MonkeyPatch,
    data: Dataset,
    plan: Plan | None = None,
    *,
    rank: int = 0,
    limit: int = 100,
    seed: int = 0,
) -> Feed:
    plan = plan or make_plan()
    monkeypatch.setattr(feeds, "data_index", lambda _mesh: rank)
    mesh = None
    return build_feed(data, plan, mesh, seed=seed, sequence_length=limit)  # type: ignore[arg-type]


def seen_in(batch: Batch) -> list[int]:
    """Return the numbers of the samples in a batch, from the tokens that begin a sample."""
    starts = (batch.position_ids == 0) & (batch.targets != -100)
    return [int(token) // 100 for token in batch.input_ids[starts]]


def test_every_sample_is_seen_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_of(monkeypatch, dataset([5] * 40))
    seen = [i for step in range(feed.steps_per_epoch) for i in feed.samples(step)]
    assert sorted(seen) == list(range(40))


def test_the_rest_of_an_epoch_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_of(monkeypatch, dataset([5] * 43))
    assert feed.steps_per_epoch == 5
    seen = [i for step in range(5) for i in feed.samples(step)]
    assert len(set(seen)) == len(seen) == 40


def test_epochs_differ_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_of(monkeypatch, dataset([5] * 16))
    assert feed.samples(0) != feed.samples(2)
    assert sorted(feed.samples(2) + feed.samples(3)) == list(range(16))


def test_the_seed_decides_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset([5] * 16)
    assert feed_of(monkeypatch, data).samples(0) == feed_of(monkeypatch, data).samples(0)
    assert feed_of(monkeypatch, data).samples(0) != feed_of(monkeypatch, data, seed=1).samples(0)


@pytest.mark.parametrize(
    "degrees", [{"dp_shard": 2}, {"dp_replicate": 4}, {"dp_replicate": 2, "dp_shard": 2}]
)
def test_the_ranks_rows_together_are_the_global_batch(
    monkeypatch: pytest.MonkeyPatch, degrees: dict[str, int]
) -> None:
    data = dataset([5] * 16)
    plan = make_plan(**degrees)
    samples = feed_of(monkeypatch, data).samples(1)
    firsts = []
    for rank in range(plan.dp):
        rows = feed_of(monkeypatch, data, plan, rank=rank).batch(samples)
        firsts += [int(row[0]) // 100 for row in rows.input_ids]
    assert firsts == samples


@pytest.mark.parametrize("lengths", [[5] * 48, [(7 * i) % 29 + 2 for i in range(48)]])
def test_an_epoch_is_seen_exactly_once_over_changes_of_plan(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    """Two changes of plan and a step that is done again after a kill: by the samples' numbers."""
    data = dataset(lengths)
    plans = [make_plan(dp_shard=2), make_plan(dp_replicate=4), make_plan()]
    # Steps 0 and 1 under the first plan; step 2 is lost with a kill and done again under the next.
    steps = [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    seen: list[int] = []
    for which, step in steps:
        plan = plans[which]
        for rank in range(plan.dp):
            feed = feed_of(monkeypatch, data, plan, rank=rank)
            for batch in feed.micro_batches(feed.samples(step)):
                seen += seen_in(batch)
    assert sorted(seen) == list(range(48))


def test_trained_tokens_are_counted_as_the_batch_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_of(monkeypatch, dataset([5, 9, 3, 7, 2, 1, 8, 4], context=2))
    samples = list(range(8))
    assert feed.trained_tokens(samples) == int(feed.batch(samples).trained_tokens)


@pytest.mark.parametrize("limit", [1, 2, 4, 6, 50])
def test_long_samples_are_cut_and_counted_so(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    feed = feed_of(monkeypatch, dataset([5, 9, 3, 7, 2, 1, 8, 4], context=1), limit=limit)
    samples = list(range(8))
    batch = feed.batch(samples)
    assert batch.length == min(limit, 9)
    assert feed.trained_tokens(samples) == int(batch.trained_tokens)
    assert feed.tokens(samples) == sum(min(n, limit) for n in (5, 9, 3, 7, 2, 1, 8, 4))


def test_an_evaluation_covers_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_of(monkeypatch, dataset([5] * 19))
    assert [i for chunk in feed.chunks() for i in chunk] == list(range(19))


@pytest.mark.parametrize("count", range(1, 17))
def test_all_ranks_get_equally_many_rows(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Each rank must join in every collective, also where samples run out or pack unevenly."""
    data = dataset([30, 2, 2, 2, 30, 30, 30, 30, 5, 5, 5, 5, 30, 1, 1, 30])
    plan = make_plan(dp_shard=4)
    batches = [
        feed_of(monkeypatch, data, plan, rank=rank).batch(list(range(count))) for rank in range(4)
    ]
    assert len({len(batch) for batch in batches}) == 1
    feed = feed_of(monkeypatch, data, plan)
    trained = sum(int(batch.trained_tokens) for batch in batches)
    assert trained == feed.trained_tokens(range(count))


def test_short_samples_share_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_of(monkeypatch, dataset([30, 10, 10, 10, 30, 15, 15, 3]))
    batch = feed.batch(range(8))
    assert len(batch) == 5
    assert batch.length == 30
    assert batch.segments is not None
    assert int(batch.trained_tokens) == feed.trained_tokens(range(8))


def test_samples_that_fill_their_rows_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = feed_of(monkeypatch, dataset([20, 19, 18, 20])).batch(range(4))
    assert batch.segments is None
    assert len(batch) == 4


def test_a_rank_without_samples_gets_rows_that_train_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = make_plan(dp_shard=4)
    feed = feed_of(monkeypatch, dataset([5] * 9), plan, rank=3)
    batch = feed.batch([8])
    assert int(batch.trained_tokens) == 0
    assert len(batch) >= 1


def test_an_uneven_chunk_is_shared_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(dp_shard=4)
    data = dataset([5] * 9)
    samples = [0, 1, 2, 3, 4, 5]
    counted = sum(
        int(feed_of(monkeypatch, data, plan, rank=rank).batch(samples).trained_tokens)
        for rank in range(4)
    )
    assert counted == 6 * 4


@pytest.mark.parametrize("count", range(1, 17))
def test_micro_batches_train_each_sample_once(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    data = dataset([30, 2, 2, 2, 30, 30, 30, 30, 5, 5, 5, 5, 30, 3, 4, 30])
    plan = make_plan(dp_shard=4)
    parts = [
        feed_of(monkeypatch, data, plan, rank=rank).micro_batches(list(range(count)))
        for rank in range(4)
    ]
    assert len({len(part) for part in parts}) == 1
    assert sorted(i for part in parts for one in part for i in seen_in(one)) == list(range(count))


@pytest.mark.parametrize("limit", [2, 4, 6, 50])
def test_micro_batches_cut_long_samples(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    feed = feed_of(monkeypatch, dataset([5, 9, 3, 7, 2, 1, 8, 4], context=1), limit=limit)
    found = feed.micro_batches(range(8))
    assert max(one.length for one in found) <= min(limit, 9)
    assert sum(int(one.trained_tokens) for one in found) == feed.trained_tokens(range(8))


def test_samples_share_the_rows_of_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    found = feed_of(monkeypatch, dataset([30, 10, 10, 10, 30, 15, 15, 3])).micro_batches(range(8))
    assert sum(len(one) for one in found) == 5


def test_without_packing_each_sample_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "pack", lambda lengths: tuple((i,) for i in range(len(lengths))))
    found = feed_of(monkeypatch, dataset([30, 10, 10, 10, 30, 15, 15, 3])).micro_batches(range(8))
    assert sum(len(one) for one in found) == 8
    assert all(one.segments is None for one in found)


@pytest.mark.parametrize(
    ("degrees", "kind"), [({}, tuple), ({"dp_shard": 2}, tuple), ({"tp": 2}, Batch),
                          ({"pp": 2, "accumulation": 2}, Batch)]
)  # fmt: skip
def test_shapes_differ_only_where_the_plan_allows_it(
    monkeypatch: pytest.MonkeyPatch, degrees: dict[str, int], kind: type
) -> None:
    feed = feed_of(monkeypatch, dataset([5] * 8), make_plan(**degrees))
    assert isinstance(feed.rows(range(8)), kind)
