"""Every parser answers hostile input with its own errors. `make fuzz` feeds a million and more."""

# ruff: noqa: S311 - chance for tests, not for secrets

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing.mutate import anything, damaged, mutated
from fuzzing.targets import PLAN, REPORT, REQUEST, TARGETS, Target
from qwenft_operator.progress_server import _progress
from qwenft_plan.errors import SpecError
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_mutations_are_read_or_refused(target: Target) -> None:
    for number in range(200):
        target.try_one(Random(number))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (holder, key) of a document."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        for key in keys:
            found += [(value, key), *places(value[key])]
    return found


@settings(max_examples=250, deadline=None)
@given(place=st.integers(0, 200), value=JSON)
def test_any_value_anywhere_in_a_request(place: int, value: Any) -> None:
    document = json.loads(json.dumps(REQUEST))
    holder, key = places(document)[place % len(places(document))]
    holder[key] = value
    try:
        FinetuneSpec.from_mapping(document)
    except SpecError as error:
        assert error.path.startswith("spec")


@settings(max_examples=250, deadline=None)
@given(place=st.integers(0, 200), value=JSON)
def test_any_value_anywhere_in_a_report(place: int, value: Any) -> None:
    for honest in (REPORT, {"trainerStatus": REPORT["trainerStatus"]}):
        document = json.loads(json.dumps(honest))
        holder, key = places(document)[place % len(places(document))]
        holder[key] = value
        try:
            progress = _progress(document, 1)
        except SpecError:
            continue
        json.dumps(progress.to_mapping(), allow_nan=False)


@settings(max_examples=250, deadline=None)
@given(name=st.sampled_from(sorted(PLAN.to_mapping())), value=JSON)
def test_any_value_in_a_plan_file(name: str, value: Any) -> None:
    text = json.dumps(PLAN.to_mapping() | {name: value, "digest": None})
    try:
        plan = Plan.from_json(text)
    except SpecError:
        return
    assert Plan.from_json(plan.to_json()) == plan


def test_chance_is_the_same_each_time() -> None:
    first = [repr(mutated(REQUEST, Random(n))) for n in range(20)]
    assert first == [repr(mutated(REQUEST, Random(n))) for n in range(20)]
    assert len(set(first)) == 20
    assert damaged(b"abcdef", Random(3)) == damaged(b"abcdef", Random(3))


def test_the_honest_documents_are_read() -> None:
    FinetuneSpec.from_mapping(REQUEST)
    assert _progress(REPORT, 1).step == 5
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_a_crash_is_told() -> None:
    broken = Target(name="x", make=anything, read=lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        broken.try_one(Random(0))
    forgiven = Target(name="x", make=anything, read=lambda _: 1 // 0, answers=(ArithmeticError,))
    forgiven.try_one(Random(0))
