"""What the seeds of the broken views draw, without a cluster."""

from __future__ import annotations

from chaos.meddlers import FAULTS, Spoiler


def test_the_seeds_of_the_campaign_draw_every_fault_often() -> None:
    drawn = [kind for seed in range(100, 400) for kind in Spoiler(seed).kinds]
    assert {kind for kind in FAULTS if drawn.count(kind) >= 40} == set(FAULTS)
