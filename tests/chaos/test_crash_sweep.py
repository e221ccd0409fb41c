"""The operator is killed around its writes, on a real apiserver and Job controller.

A whole sweep kills it once a life, around each write of each life. The fast one kills it around
every ninth of a life, so that a third of all moments fall into few lives; an end state has then to
survive several deaths instead of one. Pods are those of :mod:`chaos.kubelet`.
"""

from __future__ import annotations

import asyncio

import pytest

from chaos.campaign import Campaign, Verdicts, on_a_plane
from chaos.lives import LIVES
from chaos.scene import Scene

pytestmark = pytest.mark.cluster

_MARGIN = 2
"""Moments more than the undisturbed life had: after a death there may be writes more."""


async def every_third(_: Scene, campaign: Campaign) -> Verdicts:
    verdicts = Verdicts()
    await asyncio.gather(
        *(campaign.crash(verdicts, name, range(offset, 999, 9))
          for name in LIVES for offset in (0, 4, 8))
    )  # fmt: skip
    return verdicts


async def each(_: Scene, campaign: Campaign) -> Verdicts:
    verdicts = Verdicts()
    await asyncio.gather(
        *(campaign.crash(verdicts, name, range(moment, moment + 1))
          for name in LIVES for moment in range(2 * len(campaign.writes[name]) + _MARGIN))
    )  # fmt: skip
    return verdicts


def test_a_third_of_all_moments_may_be_the_operator_s_last() -> None:
    verdicts = on_a_plane(every_third)
    assert verdicts.wrong == []
    print(f"{verdicts.plans} lives, {len(verdicts.struck)} deaths")
    assert len(verdicts.struck) > 40
    for moment in ("before PATCH jobs", "after PATCH jobs", "PUT status", "events", "DELETE"):
        assert [what for what in verdicts.struck if moment in what], moment


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_any_moment_may_be_the_operator_s_last() -> None:
    verdicts = on_a_plane(each)
    assert verdicts.wrong == []
    print(f"{verdicts.plans} lives, {len(verdicts.struck)} deaths")
    assert len(verdicts.struck) >= verdicts.plans - _MARGIN * len(LIVES), "all but the margin die"
