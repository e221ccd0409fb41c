"""The planner's memory of the own trainer against what its steps hold, on the fake group.

All combinations: `PYTHONPATH=tests/support python -m parity.footprint`.
"""

import csv
from pathlib import Path

import pytest

from parity.footprint import (
    ADAPTED,
    BROAD,
    COMBINATIONS,
    GRID,
    OTHERS,
    STAYING,
    Combination,
    footprint,
    predicted,
    tracked,
    tracked_by_torch,
)

pytestmark = pytest.mark.torch

TABLE = Path(__file__).parents[1] / "truth/trainer_footprint.csv"
WITHIN = 0.05
"""The planner keeps 8 % of a device free, so it may be off by a little less."""
SOME = (
    *(GRID[index] for index in (6, 10, 16, 29)),
    *(OTHERS[index] for index in (3, 8)),
    BROAD[4],
    STAYING[4],
)
"""One of every kind that needs no process of its own, as pipelines do; each takes seconds."""


def named(combination: Combination) -> str:
    return f"{combination.precision} {combination.checkpointing} {combination.text}"


@pytest.mark.parametrize("combination", SOME, ids=named)
def test_the_predicted_peak_is_the_tracked_one(combination: Combination) -> None:
    assert footprint(combination).ratio == pytest.approx(1.0, abs=WITHIN)


@pytest.mark.full
@pytest.mark.parametrize("combination", COMBINATIONS, ids=named)
def test_every_predicted_peak_is_the_tracked_one(combination: Combination) -> None:
    assert footprint(combination).ratio == pytest.approx(1.0, abs=WITHIN)


@pytest.mark.parametrize("combination", [GRID[11]], ids=named)
def test_the_storages_say_what_torch_s_own_tracker_says(combination: Combination) -> None:
    assert tracked(combination) == pytest.approx(tracked_by_torch(combination), rel=1e-3)


def test_what_was_tracked_once_is_still_predicted() -> None:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = {
            (row["precision"], row["checkpointing"], row["combination"]): float(row["tracked_mb"])
            for row in csv.DictReader(file)
        }
    assert len(rows) == len(COMBINATIONS)
    for each in COMBINATIONS:
        known = rows[each.precision, each.checkpointing, each.text] * 1e6
        assert predicted(each) / known == pytest.approx(1.0, abs=WITHIN), named(each)


def test_adapters_need_less_than_all_weights() -> None:
    assert predicted(ADAPTED) < 0.6 * predicted(Combination())
