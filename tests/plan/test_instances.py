"""The table of instance types agrees with what the clouds print, and is found in any spelling."""

from __future__ import annotations

import pytest

from qwenft_plan.instances import INSTANCE_GBITS, gigabits


@pytest.mark.parametrize(
    ("instance", "rate"),
    [
        ("p4d.24xlarge", 400),
        ("p5.48xlarge", 3200),
        ("g5.48xlarge", 100),
        ("a3-megagpu-8g", 1600),
        ("Standard_ND96asr_v4", 1600),
        ("BM.GPU.H100.8", 3200),
        (" P5.48XLARGE ", 3200),
    ],
)
def test_an_instance_type_is_found_as_its_label_spells_it(instance: str, rate: float) -> None:
    assert gigabits(instance) == rate


@pytest.mark.parametrize("instance", ["", "p5", "m5.large", "p5.48xlarge.metal"])
def test_what_is_not_in_the_table_is_not_guessed(instance: str) -> None:
    assert gigabits(instance) is None


def test_every_row_can_be_found_and_is_a_rate_of_this_decade() -> None:
    for instance, rate in INSTANCE_GBITS.items():
        assert instance == instance.lower()
        assert gigabits(instance.upper()) == rate
        assert 10 <= rate <= 14_400


def test_larger_instances_of_a_family_are_not_slower() -> None:
    for family in ("g5", "g6", "g6e"):
        rates = [INSTANCE_GBITS[f"{family}.{size}xlarge"] for size in (12, 24, 48)]
        assert rates == sorted(rates)
