"""Corrections from finished runs: explained, shrunk, bounded, and deaf to nonsense."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_plan import explain
from qwenft_plan.inventory import Inventory
from qwenft_plan.lessons import (
    KEPT_KEYS,
    KEPT_RUNS,
    MEMORY_BOUNDS,
    NO_LESSONS,
    SPEED_BOUNDS,
    Experience,
    Lesson,
    Lessons,
    Pair,
    lesson_key,
)
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan
from qwenft_plan.search import Judged, Refused, judge_all
from qwenft_plan.spec import FinetuneSpec

MAPPING = {
    "model": {"name": "Qwen/Qwen1.5-7B"},
    "dataset": {"path": "/data/dataset.pt"},
    "output": {"path": "/data/out"},
}
SPEC = FinetuneSpec.from_mapping(MAPPING)


def planned(lessons: Lessons = NO_LESSONS, on: str = "1x8xH100-80G") -> Planned:
    model = ModelShape.known(SPEC.model.name)
    return plan(spec=SPEC, model=model, inventory=Inventory.parse(on), lessons=lessons)


def key_of(found: Planned) -> str:
    return lesson_key(found.chosen.work, found.chosen.layout)


def run(name: object, *, speed: float = 1.0, memory: float = 1.0, ended: str = "") -> Experience:
    """Return a finished run that measured these multiples of what was predicted."""
    return Experience(
        run=f"run-{name}",
        ended=ended,
        memory=Pair(predicted=60.0, measured=60.0 * memory),
        speed=Pair(predicted=50_000.0, measured=50_000.0 * speed),
        mfu=Pair(predicted=0.4, measured=0.4 * speed),
    )


def after(
    key: str,
    *,
    speed: float = 1.0,
    memory: float = 1.0,
    runs: int = 8,
    lessons: Lessons = NO_LESSONS,
    prefix: str = "",
) -> Lessons:
    for number in range(runs):
        lessons = lessons.after(key, run(f"{prefix}{number}", speed=speed, memory=memory))
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
    lessons = after("key", speed=0.9, runs=6).after("key", run("wild", speed=50.0))
    assert lessons.lesson("key").speed == pytest.approx(0.92, abs=0.01)


@pytest.mark.parametrize(
    ("speed", "memory"),
    [(math.nan, 1.0), (1.0, math.inf), (-1.0, 1.0), (0.0, 1.0), (1.0, 1e9), (1e-3, 1.0)],
)
def test_an_insane_measurement_is_not_kept(speed: float, memory: float) -> None:
    assert NO_LESSONS.after("key", run("x", speed=speed, memory=memory)) == NO_LESSONS


def test_a_run_is_counted_once_whatever_it_says_the_second_time() -> None:
    once = NO_LESSONS.after("key", run("x", speed=0.9))
    assert once.after("key", run("x", speed=0.9)) is once
    assert once.after("other", run("x", speed=0.5)) is once
    assert once.knows("run-x")
    assert not once.knows("run-y")


def test_only_the_latest_runs_are_kept() -> None:
    lessons = after("key", speed=0.8, runs=KEPT_RUNS)
    lessons = after("key", speed=1.1, runs=KEPT_RUNS, lessons=lessons, prefix="new-")
    assert lessons.lesson("key").runs == KEPT_RUNS
    assert lessons.lesson("key").speed > 1.0


def test_only_so_many_kinds_are_kept_and_the_one_that_rested_longest_goes() -> None:
    lessons = NO_LESSONS
    for number in range(KEPT_KEYS + 5):
        ended = f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z"
        lessons = lessons.after(f"key-{number:03}", run(number, ended=ended))
    assert len(lessons.runs) == KEPT_KEYS
    assert "key-004" not in lessons.runs
    assert {"key-005", f"key-{KEPT_KEYS + 4:03}"} <= set(lessons.runs)


def test_a_full_notebook_stays_far_below_what_a_config_map_may_hold() -> None:
    lessons = NO_LESSONS
    for kind in range(KEPT_KEYS):
        for number in range(KEPT_RUNS):
            name = f"{kind:08}-{number:04}-4000-8000-000000000000"
            ended = "2026-11-24T12:31:15Z"
            lessons = lessons.after(f"GPU-{kind}" + "x" * 80, run(name, ended=ended))
    size = sum(len(key) + len(text) for key, text in lessons.to_data().items())
    assert len(lessons.runs) == KEPT_KEYS
    assert size < 512 * 1024
    assert Lessons.from_data(lessons.to_data()) == lessons


def test_lessons_survive_a_config_map() -> None:
    lessons = after("key", speed=0.9, memory=1.1, runs=3)
    read = Lessons.from_data(lessons.to_data())
    assert read.lesson("key").speed == pytest.approx(lessons.lesson("key").speed)
    assert read.ignored == ()
    assert read.to_data() == lessons.to_data()


def test_the_config_map_shows_a_person_what_was_predicted_and_measured() -> None:
    text = after("key", speed=0.9, runs=2).to_data()["key"]
    first, second = json.loads(text)
    assert text.count("\n") == 2, "a run a line"
    assert first["run"] == "run-0"
    assert first["tokensPerSecond"] == {"predicted": 50_000.0, "measured": 45_000.0}
    assert second["memoryGiB"] == {"predicted": 60.0, "measured": 60.0}
    assert second["mfu"] == {"predicted": 0.4, "measured": 0.36}


GOOD = json.loads(NO_LESSONS.after("key", run("x", speed=0.9)).to_data()["key"])[0]
BAD_ENTRIES = [
    None, 7, "x", [], {}, GOOD | {"run": ""}, GOOD | {"run": 5}, GOOD | {"run": "a b"},
    GOOD | {"run": "x" * 65}, GOOD | {"ended": 5}, GOOD | {"ended": "today"},
    GOOD | {"memoryGiB": None}, GOOD | {"memoryGiB": [1, 2]}, GOOD | {"memoryGiB": {}},
    GOOD | {"memoryGiB": {"predicted": 1}}, GOOD | {"memoryGiB": {"predicted": 0, "measured": 1}},
    GOOD | {"tokensPerSecond": {"predicted": "1", "measured": 1}},
    GOOD | {"tokensPerSecond": {"predicted": True, "measured": 1}},
    GOOD | {"tokensPerSecond": {"predicted": 10**400, "measured": 1}},
    GOOD | {"tokensPerSecond": {"predicted": 1, "measured": 1000}},
    GOOD | {"mfu": {"predicted": -1, "measured": 1}},
]  # fmt: skip


@pytest.mark.parametrize("entry", BAD_ENTRIES)
def test_a_bad_entry_among_good_ones_is_ignored_and_named(entry: object) -> None:
    lessons = Lessons.from_data({"key": json.dumps([entry, GOOD])})
    assert [known.run for known in lessons.runs["key"]] == ["run-x"]
    assert lessons.ignored == ("'key': 1 of 2 entries are no sound runs",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 5000, "is not JSON"),
        ("null", "is no list of runs"),
        ("7", "is no list of runs"),
        ('{"run": "x"}', "is no list of runs"),
        ("[[1, 1]]", "1 of 1 entries"),
        ("[NaN]", "1 of 1 entries"),
        (" " * 20_000, "is no text of at most"),
        (None, "is no text of at most"),
    ],
)
def test_unreadable_data_counts_for_nothing_and_is_named(text: str, told: str) -> None:
    lessons = Lessons.from_data({"key": text})
    assert lessons.lesson("key") == Lesson()
    (ignored,) = lessons.ignored
    assert told in ignored


@pytest.mark.parametrize("key", ["", "a b", "../x", "x" * 201, "key\n"])
def test_a_key_that_no_planner_wrote_is_ignored(key: str) -> None:
    lessons = Lessons.from_data({key: json.dumps([GOOD])})
    assert lessons.runs == {}
    assert "is no kind of run" in lessons.ignored[0]


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=200), max_size=4))
def test_no_text_leaves_the_bounds(data: dict[str, str]) -> None:
    lessons = Lessons.from_data(data)
    assert all(_within(lessons.lesson(key)) for key in data)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = ("run", "ended", "memoryGiB", "tokensPerSecond", "mfu")


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON), max_size=4))
def test_no_json_leaves_the_bounds(changes: list[dict[str, object]]) -> None:
    entries = [GOOD | {"run": f"r{number}"} | part for number, part in enumerate(changes)]
    lessons = Lessons.from_data({"a.tp1.x": json.dumps(entries)})
    assert _within(lessons.lesson("a.tp1.x"))
    assert _within(lessons.lesson("a.tp2.x"))


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20))
def test_no_measurements_leave_the_bounds(pairs: list[tuple[float, float]]) -> None:
    lessons = NO_LESSONS
    for number, (speed, memory) in enumerate(pairs):
        lessons = lessons.after("a.tp1.x", run(number, speed=speed, memory=memory))
    assert _within(lessons.lesson("a.tp1.x"))
    assert _within(lessons.lesson("a.tp8.x"))


def _within(lesson: Lesson) -> bool:
    return (
        SPEED_BOUNDS[0] <= lesson.speed <= SPEED_BOUNDS[1]
        and MEMORY_BOUNDS[0] <= lesson.memory <= MEMORY_BOUNDS[1]
    )


def test_a_plan_is_corrected_and_says_so() -> None:
    before = planned()
    taught = planned(after(key_of(before), speed=0.99, memory=1.02))
    assert key_of(taught) == key_of(before)
    assert taught.predicted.memory_gib > before.predicted.memory_gib
    assert taught.predicted.tokens_per_second < before.predicted.tokens_per_second
    assert "corrected by 8 earlier runs" in taught.reason
    assert "corrected" not in before.reason


def test_a_kind_of_run_that_turned_out_slow_loses_to_another() -> None:
    before = planned(on="1x4xA100-80G")
    taught = planned(after(key_of(before), speed=0.7), "1x4xA100-80G")
    assert key_of(taught) != key_of(before)


def test_a_device_that_is_slow_under_one_shape_is_expected_slow_under_all() -> None:
    before = planned()
    lessons = after(key_of(before), speed=0.8)
    taught = planned(lessons)
    assert "earlier runs" in taught.reason
    other = key_of(before).replace(".tp1.", ".tp4.")
    assert lessons.lesson(other).speed > lessons.lesson(key_of(before)).speed
    assert lessons.lesson(other).speed < 1.0


def test_a_loser_that_runs_made_lose_says_so() -> None:
    best = planned().chosen
    loser = replace(best, lesson=Lesson(speed=0.75, memory=1.0, runs=8))
    told = "25% slower by earlier runs (speed × 0.75, memory × 1.00)"
    assert explain.slower(best, loser) == told


def test_memory_that_runs_needed_refuses_what_would_have_fitted_and_says_why() -> None:
    best = planned().chosen
    tight = replace(best.group, device=replace(best.group.device, memory=int(1.2 * best.peak)))
    lessons = after(lesson_key(best.work, best.layout), memory=1.25, runs=16)

    def found(lessons: Lessons) -> Judged | Refused:
        judged = judge_all(SPEC, best.work.model, tight, best.nodes, best.per_node, lessons)
        return next(item for item in judged if item.layout == best.layout)

    assert isinstance(found(NO_LESSONS), Judged)
    refused = found(lessons)
    assert isinstance(refused, Refused)
    assert refused.reason.endswith("(× 1.22 by earlier runs)")


def test_hostile_memory_cannot_make_a_plan_fit_that_does_not() -> None:
    before = planned()
    taught = planned(after(key_of(before), memory=0.02))
    assert taught.predicted.memory_gib >= 0.96 * before.predicted.memory_gib
