"""Two ConfigMaps become advice for plans; nothing that they hold can do harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_operator.advice import NO_ADVICE, Advice
from qwenft_plan.lessons import NO_LESSONS, Experience, Pair

KIND = "H100-80GB.qwen2.full.bf16_mixed.tp1.pp1.none"
LESSONS = NO_LESSONS.after(
    KIND,
    Experience(
        run="uid-1",
        memory=Pair(predicted=60.0, measured=63.0),
        speed=Pair(predicted=100.0, measured=90.0),
    ),
)


def test_no_data_is_no_advice() -> None:
    assert Advice.of({}, {}) == NO_ADVICE
    assert Advice.of({}, {}).warnings == ()


def test_what_the_chart_writes_is_read() -> None:
    planner = {
        "prices": json.dumps({"H100-80GB": 2.5, "MI300X": "1.9"}),
        "currency": "EUR",
        "networkGbps": json.dumps({"P5.48xlarge": 3200, "H100": "800"}),
    }
    advice = Advice.of(planner, LESSONS.to_data())
    assert advice.prices.hourly == {"H100-80GB": 2.5, "MI300X-192GB": 1.9}
    assert advice.prices.currency == "EUR"
    assert advice.networks.rates == {"p5.48xlarge": 400e9, "H100-80GB": 100e9}
    assert advice.lessons.lesson(KIND).runs == 1
    assert advice.warnings == ()


@pytest.mark.parametrize("text", ["{", "[]", "7", "null", '"x"', "[" * 9999])
@pytest.mark.parametrize("key", ["prices", "networkGbps"])
def test_what_is_no_object_is_named_and_the_rest_is_read(key: str, text: str) -> None:
    other = "networkGbps" if key == "prices" else "prices"
    advice = Advice.of({key: text, other: '{"H100": 2}'}, {})
    assert advice.warnings == (f"{key} is no JSON object",)
    assert bool(advice.prices.hourly) is (other == "prices")
    assert bool(advice.networks.rates) is (other == "networkGbps")


@pytest.mark.parametrize("rate", [0, -1, "fast", None, True, 1e9, [], {}])
def test_an_absurd_network_is_named_and_not_believed(rate: object) -> None:
    advice = Advice.of({"networkGbps": json.dumps({"p5.48xlarge": rate, "L4": 25})}, {})
    assert advice.networks.rates == {"L4-24GB": 25e9 / 8}
    (told,) = advice.warnings
    assert told.startswith("networkGbps of 'p5.48xlarge'")


def test_every_kind_of_nonsense_is_named_once() -> None:
    planner = {"prices": '{"Abacus": 1}', "networkGbps": '{"x": 0}'}
    warnings = Advice.of(planner, {"bad key": "[]", KIND: "oops"}).warnings
    assert len(warnings) == 4
    assert [text for text in warnings if text.startswith("lesson ")] == [
        f"lesson '{KIND}': is not JSON",
        "lesson 'bad key': is no kind of run",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(
    prices=st.one_of(st.text(max_size=40), JSON.map(json.dumps)),
    networks=st.one_of(st.text(max_size=40), JSON.map(json.dumps)),
    lessons=st.dictionaries(st.text(max_size=9), st.text(max_size=40), max_size=2),
)
def test_no_data_raises(prices: str, networks: str, lessons: dict[str, str]) -> None:
    advice = Advice.of({"prices": prices, "networkGbps": networks}, lessons)
    assert all(price >= 0 for price in advice.prices.hourly.values())
    assert all(0 < rate <= 1.25e13 for rate in advice.networks.rates.values())


@pytest.mark.parametrize("value", [None, 7, [], {}])
def test_data_that_is_no_text_is_ignored(value: Any) -> None:
    advice = Advice.of({"prices": value}, {KIND: value})
    assert advice == NO_ADVICE
    assert advice.warnings
