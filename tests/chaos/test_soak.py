"""Runs come and go for a while, and nothing is left of them but their memory of nothing."""

from __future__ import annotations

import pytest

from bare.soak import soak

pytestmark = [pytest.mark.cluster, pytest.mark.full]


@pytest.mark.timeout(600)
def test_a_minute_and_a_half_of_mixed_lives_leaves_nothing_behind() -> None:
    verdict = soak(1.5)
    print(verdict)
    assert verdict.wrong == ()
    assert verdict.orphans == 0
    assert all(verdict.lives.values()), verdict.lives
    assert verdict.passed
