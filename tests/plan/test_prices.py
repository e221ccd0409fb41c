"""Prices are found under any spelling of a product; what is no price is named."""

from __future__ import annotations

import math

import pytest

from planning import config, planned
from qwenft_plan.prices import NO_PRICES, Prices


@pytest.mark.parametrize(
    "spelling", ["H100-80GB", "H100", "NVIDIA-H100-80GB-HBM3", "nvidia-h100-80gb"]
)
def test_a_product_is_found_in_any_usual_spelling(spelling: str) -> None:
    assert Prices.from_mapping({spelling: 2.5}).hourly == {"H100-80GB": 2.5}


@pytest.mark.parametrize(("price", "value"), [(2, 2.0), (0, 0.0), ("2.5", 2.5), (1e-3, 0.001)])
def test_numbers_and_texts_of_numbers_are_prices(price: object, value: float) -> None:
    assert Prices.from_mapping({"L4": price}).hourly == {"L4-24GB": value}


@pytest.mark.parametrize("price", [-1, "free", None, True, [], math.nan, math.inf, 10**400, ""])
def test_what_is_no_price_is_named_and_ignored(price: object) -> None:
    found = Prices.from_mapping({"L4": price, "H100": 2})
    assert found.hourly == {"H100-80GB": 2.0}
    (told,) = found.ignored
    assert told.startswith("price of 'L4'")
    assert len(told) < 120


def test_an_unknown_product_is_named_and_ignored() -> None:
    found = Prices.from_mapping({"Abacus-9000": 1.0})
    assert found.hourly == {}
    assert found.ignored == ("price of 'Abacus-9000': unknown accelerator",)


def test_of_two_spellings_one_counts_whatever_their_order() -> None:
    one = Prices.from_mapping({"H100": 1.0, "NVIDIA-H100-80GB-HBM3": 2.0})
    other = Prices.from_mapping({"NVIDIA-H100-80GB-HBM3": 2.0, "H100": 1.0})
    assert one == other


def test_a_currency_is_short() -> None:
    assert Prices.from_mapping({}, "x" * 100).currency == "x" * 8


def test_a_cpu_run_takes_process_hours() -> None:
    found = planned("1x2xcpu", model={"path": "/data/model", "config": config()})
    assert "process-hours per billion tokens" in NO_PRICES.told(found.chosen)
    priced = Prices.from_mapping({"cpu": 0.05}, "USD")
    assert "USD at 0.05 an hour" in priced.told(found.chosen)


def test_no_prices_no_amounts() -> None:
    found = planned("1x8xH100", "Qwen/Qwen1.5-7B")
    assert NO_PRICES.amount(found.chosen) is None
    assert NO_PRICES.told(found.chosen) == NO_PRICES.told(found.chosen, short=True)


def test_twice_the_price_is_twice_the_cost() -> None:
    found = planned("1x8xH100", "Qwen/Qwen1.5-7B")
    one, two = (Prices(hourly={"H100-80GB": price}).amount(found.chosen) for price in (1.5, 3.0))
    assert one is not None
    assert two == pytest.approx(2 * one)
