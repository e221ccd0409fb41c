"""The planner's memory of the own trainer against torch's memory tracker, on the fake group.

All thirty combinations: `PYTHONPATH=tests/support python -m parity.footprint`.
"""

import pytest

from parity.footprint import CASES, footprint

pytestmark = pytest.mark.torch

SOME = (0, 2, 4, 6, 10, 11, 15, 18, 20, 25, 26, 29)
"""A dozen that cover precisions, checkpointing and degrees; each takes seconds."""


@pytest.mark.parametrize("index", SOME)
def test_the_predicted_peak_is_the_tracked_one(index: int) -> None:
    found = footprint(*CASES[index])
    assert found.ratio == pytest.approx(1.0, abs=0.06)


def test_there_are_thirty_combinations() -> None:
    assert len(set(map(str, CASES))) == 30
