"""Corrections from finished runs: explained, shrunk, bounded, and deaf to nonsense."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_plan.inventory import Inventory
from qwenft_plan.lessons import (
    MEMORY_BOUNDS,
    NO_LESSONS,
    SPEED_BOUNDS,
    Lesson,
    Lessons,
    lesson_key,
)
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan
from qwenft_plan.spec import FinetuneSpec

SPEC = FinetuneSpec.from_mapping(
    {
        "model": {"name": "Qwen/Qwen1.5-7B"},
        "dataset": {"path": "/data/dataset.pt"},
        "output": {"path": "/data/out"},
    }
)


def planned(lessons: Lessons = NO_LESSONS, on: str = "1x8xH100-80G") -> Planned:
    model = ModelShape.known(SPEC.model.name)
    return plan(spec=SPEC, model=model, inventory=Inventory.parse(on), lessons=lessons)


def key_of(found: Planned) -> str:
    return lesson_key(found.chosen.work, found.chosen.layout)


def after(key: str, *, speed: float = 1.0, memory: float = 1.0, runs: int = 8) -> Lessons:
    lessons = NO_LESSONS
    for _ in range(runs):
        lessons = lessons.after(key, speed=speed, memory=memory)
    return lessons


def test_without_runs_nothing_is_corrected() -> None:
    assert NO_LESSONS.lesson("any") == Lesson(speed=1.0, memory=1.0, runs=0)


def test_a_key_names_device_family_method_and_shape() -> None:
    assert key_of(planned()).startswith("H100-80GB.qwen2.full.bf16_mixed.tp1.pp1.")


@pytest.mark.parametrize(("runs", "expected"), [(1, 0.929), (2, 0.894), (8, 0.837)])
def test_few_runs_weigh_less_than_many(runs: int, expected: float) -> None:
    assert after("key", speed=0.8, runs=runs).lesson("key").speed == pytest.approx(
        expected, abs=0.001
    )


def test_one_wild_run_among_many_changes_little() -> None:
    lessons = after("key", speed=0.9, runs=6).after("key", speed=50.0, memory=1.0)
    assert lessons.lesson("key").speed == pytest.approx(0.92, abs=0.01)


@pytest.mark.parametrize(
    ("speed", "memory"),
    [(math.nan, 1.0), (1.0, math.inf), (-1.0, 1.0), (0.0, 1.0), (1.0, 1e9), (True, 1.0)],
)
def test_an_insane_measurement_is_not_kept(speed: float, memory: float) -> None:
    assert NO_LESSONS.after("key", speed=speed, memory=memory) == NO_LESSONS


def test_only_the_latest_runs_are_kept() -> None:
    lessons = after("key", speed=0.8, runs=16)
    for _ in range(16):
        lessons = lessons.after("key", speed=1.1, memory=1.0)
    assert lessons.lesson("key").runs == 16
    assert lessons.lesson("key").speed > 1.0


def test_lessons_survive_a_config_map() -> None:
    lessons = after("key", speed=0.9, memory=1.1, runs=3)
    assert Lessons.from_data(lessons.to_data()).lesson("key") == lessons.lesson("key")


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "7", '"x"', "[[1]]", "[[1, 2, 3]]", '[["a", "b"]]', "[[NaN, 1]]", "[" * 5000],
)
def test_unreadable_data_counts_for_nothing(text: str) -> None:
    assert Lessons.from_data({"key": text}).lesson("key").runs == 0


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=200), max_size=4))
def test_no_text_leaves_the_bounds(data: dict[str, str]) -> None:
    lessons = Lessons.from_data(data)
    assert all(_within(lessons.lesson(key)) for key in data)


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20))
def test_no_measurements_leave_the_bounds(pairs: list[tuple[float, float]]) -> None:
    lessons = Lessons.from_data({"key": json.dumps(pairs)})
    for speed, memory in pairs:
        lessons = lessons.after("key", speed=speed, memory=memory)
    assert _within(lessons.lesson("key"))


def _within(lesson: Lesson) -> bool:
    return (
        SPEED_BOUNDS[0] <= lesson.speed <= SPEED_BOUNDS[1]
        and MEMORY_BOUNDS[0] <= lesson.memory <= MEMORY_BOUNDS[1]
    )


def test_a_plan_is_corrected_and_says_so() -> None:
    before = planned()
    taught = planned(after(key_of(before), speed=0.98, memory=1.05))
    assert key_of(taught) == key_of(before)
    assert taught.predicted.memory_gib > before.predicted.memory_gib
    assert taught.predicted.tokens_per_second < before.predicted.tokens_per_second
    assert "corrected by 8 earlier runs" in taught.reason
    assert "corrected" not in before.reason


def test_a_kind_of_run_that_turned_out_slow_loses_to_another() -> None:
    before = planned()
    taught = planned(after(key_of(before), speed=0.7))
    assert key_of(taught) != key_of(before)


def test_hostile_memory_cannot_make_a_plan_fit_that_does_not() -> None:
    before = planned()
    taught = planned(after(key_of(before), memory=0.02))
    assert taught.predicted.memory_gib >= 0.96 * before.predicted.memory_gib
