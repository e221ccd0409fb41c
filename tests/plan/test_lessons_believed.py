"""How much a finished run is believed, what counts as the same kind of run, how it is stored."""

from __future__ import annotations

import re
from typing import Any

import pytest

from planning import config, layout, planned, work
from qwenft_plan.lessons import (
    MEMORY_BOUNDS,
    NO_LESSONS,
    SPEED_BOUNDS,
    UNTAUGHT,
    Experience,
    Lesson,
    Lessons,
    Pair,
    lesson_key,
)
from qwenft_plan.model import ModelShape
from qwenft_plan.search import Judged

KEY = "H100-80GB.qwen2.full.bf16_mixed.tp1.pp1.none.e13"
SEVEN = "Qwen/Qwen1.5-7B"


def taught(*ratios: tuple[float, float]) -> Lesson:
    """Return the correction after runs with these (speed, memory) ratios."""
    lessons = NO_LESSONS
    for number, (speed, memory) in enumerate(ratios):
        lessons = lessons.after(KEY, run(number, speed, memory))
    return lessons.lesson(KEY)


def run(number: int, speed: float, memory: float) -> Experience:
    return Experience(
        run=f"r{number}",
        memory=Pair(predicted=10.0, measured=10.0 * memory),
        speed=Pair(predicted=10.0, measured=10.0 * speed),
    )


def key_of(judged: Judged) -> str:
    return lesson_key(judged.work, judged.layout)


def test_runs_of_another_kind_teach_nothing() -> None:
    assert NO_LESSONS.after(KEY, run(0, 0.8, 1.1)).lesson("other") == UNTAUGHT


@pytest.mark.parametrize("speed", [0.8, 0.95, 1.05, 1.2])
def test_a_correction_goes_towards_what_was_measured_but_not_all_the_way(speed: float) -> None:
    found = taught((speed, 1.0)).speed
    assert min(speed, 1.0) < found < max(speed, 1.0)


@pytest.mark.parametrize("speed", [0.8, 1.2])
def test_more_runs_that_agree_are_believed_more(speed: float) -> None:
    distances = [abs(taught(*[(speed, 1.0)] * runs).speed - speed) for runs in (1, 2, 4, 8)]
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("ratio", [0.02, 0.1, 10.0, 99.0])
def test_no_number_of_runs_goes_beyond_the_bounds(ratio: float) -> None:
    found = taught(*[(ratio, ratio)] * 16)
    assert SPEED_BOUNDS[0] <= found.speed <= SPEED_BOUNDS[1]
    assert MEMORY_BOUNDS[0] <= found.memory <= MEMORY_BOUNDS[1]


def test_less_memory_is_believed_less_than_more() -> None:
    low, high = MEMORY_BOUNDS
    assert low < 1.0 < high
    assert 1.0 - low < high - 1.0


def test_learning_leaves_the_older_lessons_as_they_were() -> None:
    NO_LESSONS.after(KEY, run(0, 0.9, 1.1))
    assert NO_LESSONS.lesson(KEY) == UNTAUGHT


def test_equal_lessons_are_stored_in_equal_bytes() -> None:
    one = NO_LESSONS.after("a", run(0, 0.9, 1.0)).after("b", run(1, 1.1, 1.0))
    other = NO_LESSONS.after("b", run(1, 1.1, 1.0)).after("a", run(0, 0.9, 1.0))
    assert list(one.to_data().items()) == list(other.to_data().items())


def test_stored_lessons_are_believed_as_they_were() -> None:
    lessons = NO_LESSONS.after(KEY, run(0, 0.9, 1.1)).after(KEY, run(1, 0.8, 1.05))
    assert Lessons.from_data(lessons.to_data()).lesson(KEY) == lessons.lesson(KEY)


TENSOR = KEY.replace(".tp1.", ".tp2.")


def kin(own: int, others: int, speed: float = 0.8) -> Lesson:
    """Return the correction of a kind of which `own` runs went as predicted, its kin slowly."""
    lessons = NO_LESSONS
    for number in range(own):
        lessons = lessons.after(KEY, run(number, 1.0, 1.0))
    for number in range(others):
        lessons = lessons.after(TENSOR, run(100 + number, speed, 1.0))
    return lessons.lesson(KEY)


def test_a_shape_without_runs_takes_after_its_kin_but_less() -> None:
    lessons = kin(0, 8)
    assert (lessons.runs, lessons.kin) == (0, 8)
    assert 0.8 < lessons.speed < 0.9


def test_more_kin_are_believed_more() -> None:
    speeds = [kin(0, others).speed for others in (1, 2, 4, 8, 16)]
    assert speeds == sorted(speeds, reverse=True)


def test_runs_of_one_s_own_count_before_those_of_kin() -> None:
    speeds = [kin(own, 8).speed for own in (0, 1, 2, 4, 8)]
    assert speeds == sorted(speeds)
    assert speeds[-1] > 0.95


@pytest.mark.parametrize(
    "stranger",
    [
        KEY.replace("H100-80GB", "A100-80GB"),
        KEY.replace("qwen2", "qwen3"),
        KEY.replace("full.bf16", "lora.bf16"),
        KEY.replace("bf16_mixed", "fp32"),
    ],
)
def test_another_device_family_or_method_is_no_kin(stranger: str) -> None:
    lessons = NO_LESSONS.after(TENSOR, run(0, 0.8, 1.1))
    assert lessons.lesson(stranger) == UNTAUGHT


@pytest.mark.parametrize(("decade", "kin"), [(9, 0), (11, 0), (12, 8), (14, 8), (15, 0)])
def test_only_micro_batches_of_similar_work_are_kin(decade: int, kin: int) -> None:
    """A trial of a tiny model takes its time to start operations, a large one to carry them out."""
    lessons = NO_LESSONS
    for number in range(8):
        lessons = lessons.after(KEY.replace("e13", f"e{decade}"), run(number, 0.7, 1.25))
    found = lessons.lesson(KEY)
    assert found.kin == kin
    assert (found.speed < 0.9) == bool(kin)


@pytest.mark.parametrize("end", ["", ".e", ".ex", ".e-1", ".e1³", ".e" + "9" * 150])
def test_a_key_without_its_work_teaches_nothing_of_others(end: str) -> None:
    lessons = NO_LESSONS.after(KEY.removesuffix(".e13") + end, run(0, 0.7, 1.25))
    assert lessons.lesson(KEY) == UNTAUGHT


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, {"tp": 2}),
        ({}, {"micro_batch": 64}),
        ({}, {"pp": 2}),
        ({}, {"checkpointing": "full"}),
        ({"precision": "fp32"}, {}),
        ({"model": ModelShape.known("Qwen/Qwen3-8B")}, {}),
    ],
)
def test_another_device_family_or_shape_is_another_kind_of_run(
    changes: dict[str, Any], shape: dict[str, Any]
) -> None:
    assert lesson_key(work(**changes), layout(**shape)) != lesson_key(work(), layout())


@pytest.mark.parametrize("shape", [{"dp_shard": 8}, {"dp_replicate": 4}, {"accumulation": 8}])
def test_accumulation_and_data_parallel_ranks_are_one_kind_of_run(shape: dict[str, int]) -> None:
    assert lesson_key(work(), layout(**shape)) == lesson_key(work(), layout())


@pytest.mark.parametrize(
    ("changes", "shape", "decade"),
    [
        ({}, {}, 13),
        ({"sequence_length": 16_384}, {}, 14),
        ({}, {"micro_batch": 16}, 14),
        ({}, {"tp": 8, "pp": 8}, 11),
    ],
)
def test_a_key_tells_the_work_of_a_micro_batch_on_a_device(
    changes: dict[str, Any], shape: dict[str, int], decade: int
) -> None:
    """7.7 billion parameters times 2,048 tokens are 1.6e13."""
    seven = work(**{"model": ModelShape.known(SEVEN), "sequence_length": 2048} | changes)
    assert lesson_key(seven, layout(**shape)).endswith(f".e{decade}")


def test_a_key_may_stand_in_a_config_map() -> None:
    for item in (planned("1x8xH100", SEVEN), planned("1x1xcpu", model=tiny())):
        assert re.fullmatch(r"[-._a-zA-Z0-9]+", key_of(item.chosen))


def tiny() -> dict[str, Any]:
    return {"path": "/data/model", "config": config()}
