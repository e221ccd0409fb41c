"""Runs that finish teach the next: once each, whatever dies, and no write comes of idling."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from qwenft_plan.lessons import Lessons
from simulated import World
from simulated.controllers import Ending, Program, fails
from simulated.world import HOME

NOTEBOOK = ("ConfigMap", HOME, "qwenft-lessons")


def succeed(
    *, speed: float = 900.0, memory: float = 2.0, steps: int = 100, after: float = 10
) -> Program:
    """Return a program that completes with these measurements."""
    result = {"steps": steps, "tokensPerSecond": speed, "memoryGiB": memory,
              "outputPath": "/data/out/model"}  # fmt: skip
    message = {"exitCode": 0, "reason": "Completed", "result": result}
    return lambda _attempt, _index, age: Ending(code=0, message=message) if age >= after else None


def learning(program: Program | None = None) -> World:
    world = World(learns=True)
    world.reconciler = world.new_process()
    world.program(program or succeed())
    return world


def finish(world: World, name: str = "tiny", seconds: int = 200) -> dict[str, Any]:
    world.submit(name)
    status = world.live_until("Succeeded", "Failed", name=name, seconds=seconds)
    for _ in range(5):
        world.tick(name)
    assert status["phase"] == "Succeeded"
    return world.status(name)


def data(world: World) -> dict[str, str]:
    body = world.objects.get(NOTEBOOK)
    return {} if body is None else body["data"]


def entries(world: World) -> list[dict[str, Any]]:
    return [entry for text in data(world).values() for entry in json.loads(text)]


def learnt_writes(world: World) -> list[str]:
    return [write for write in world.writes if "qwenft-lessons" in write]


def test_a_finished_run_leaves_its_lesson_and_says_so() -> None:
    world = learning()
    status = finish(world)
    (entry,) = entries(world)
    assert entry["run"] == world.objects["QwenFineTune", "team", "tiny"]["metadata"]["uid"]
    assert entry["tokensPerSecond"]["measured"] == 900.0
    predicted = status["plan"]["predicted"]
    assert entry["tokensPerSecond"]["predicted"] == pytest.approx(
        predicted["tokensPerSecond"], rel=1e-3
    )
    assert list(data(world)) == [status["plan"]["kind"]] == [status["lesson"]["kind"]]
    assert status["lesson"]["speed"] == pytest.approx(900 / predicted["tokensPerSecond"], rel=1e-3)
    assert learnt_writes(world) == [
        "create ConfigMap/qwenft-lessons", "apply ConfigMap/qwenft-lessons",
    ]  # fmt: skip


def test_the_next_plan_is_corrected_and_says_so() -> None:
    world = learning()
    first = finish(world)
    world.submit("second")
    world.settle("second")
    plan = world.status("second")["plan"]
    assert "corrected by 1 earlier run (speed × " in plan["reason"]
    assert plan["correction"]["runs"] == 1
    expected = first["plan"]["predicted"]["tokensPerSecond"] * plan["correction"]["speed"]
    assert plan["predicted"]["tokensPerSecond"] == pytest.approx(expected, rel=1e-3)
    assert "correction" not in first["plan"]


def test_predictions_approach_what_is_measured_and_stay_there() -> None:
    """Corrections are of the uncorrected prediction: they settle, they do not swing."""
    world = learning()
    raw = finish(world)["plan"]["predicted"]["tokensPerSecond"]
    world.program(succeed(speed=0.85 * raw))
    errors = []
    for number in range(8):
        plan = finish(world, f"run-{number}")["plan"]
        errors.append(abs(plan["predicted"]["tokensPerSecond"] / (0.85 * raw) - 1))
    assert errors[-1] < 0.04
    assert errors[-1] < errors[1]


def test_nothing_is_written_while_nothing_happens() -> None:
    world = learning()
    finish(world)
    writes = len(world.writes)
    for _ in range(30):
        world.tick()
    world.reconciler = world.new_process()
    for _ in range(30):
        world.tick()
    assert world.writes[writes:] == []


def test_a_crash_around_any_write_teaches_once() -> None:
    expected = learning()
    status, writes, silent = finish(expected), len(expected.writes), 0
    for crash_at in range(2 * writes):
        world = learning()
        world.crash_at = crash_at
        found = finish(world)
        if "plan" not in found:  # it died between the objects and the status that tells of them
            silent += 1
            assert entries(world) == []
            continue
        assert found["lesson"] == status["lesson"], f"crash at {crash_at}"
        assert len(entries(world)) == 1, f"crash at {crash_at}"
    assert silent <= 4


def test_a_run_that_failed_first_teaches_by_its_last_attempt() -> None:
    first, then = fails(69, after=5, attempts=9), succeed(speed=700.0)
    world = learning(lambda a, i, age: first(a, i, age) if a == 1 else then(a, i, age))
    assert finish(world)["attempt"] == 2
    (entry,) = entries(world)
    assert entry["tokensPerSecond"]["measured"] == 700.0


@pytest.mark.parametrize(
    "program", [succeed(steps=3), lambda _a, _i, age: Ending(code=0) if age >= 10 else None]
)
def test_a_run_without_numbers_or_with_few_steps_teaches_nothing(program: Program) -> None:
    world = learning(program)
    assert "lesson" not in finish(world)
    assert learnt_writes(world) == []


def test_an_insane_run_is_told_and_never_written() -> None:
    world = learning(succeed(speed=1e12))
    assert "not believed" in finish(world)["lesson"]["ignored"]
    assert learnt_writes(world) == []


def test_hostile_runs_in_a_row_cannot_push_a_plan_past_the_bounds() -> None:
    world = learning()
    raw = finish(world)["plan"]["predicted"]
    world.program(succeed(speed=raw["tokensPerSecond"] / 90, memory=raw["memoryGiB"] * 90))
    for number in range(20):
        finish(world, f"evil-{number}")
    world.submit("victim")
    world.settle("victim")
    predicted = world.status("victim")["plan"]["predicted"]
    assert predicted["tokensPerSecond"] >= 0.699 * raw["tokensPerSecond"]
    assert predicted["memoryGiB"] <= 1.251 * raw["memoryGiB"]
    assert len(entries(world)) <= 16


def test_garbage_in_the_notebook_is_warned_of_once_and_good_lessons_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = learning()
    finish(world)
    (key,) = data(world)
    world.objects[NOTEBOOK]["data"] |= {"x y": "[]", key.replace("tp1", "tp2"): "<garbage>"}
    with caplog.at_level(logging.WARNING):
        for name in ("b", "c"):
            finish(world, name)
    told = [record.getMessage() for record in caplog.records if "lesson" in record.getMessage()]
    assert len(told) == len(set(told)) == 2
    assert Lessons.from_data(data(world)).lesson(key).runs == 3


def test_a_foreign_write_in_between_is_kept() -> None:
    """Somebody edits the notebook between our read and our write: read again, then write."""
    world = learning()
    finish(world)
    theirs = world.objects[NOTEBOOK]["data"]
    original, hits = world.get, []

    async def get(kind: str, namespace: str, name: str) -> Any:
        found = await original(kind, namespace, name)
        over = world.status("b").get("phase") == "Succeeded"
        if name == "qwenft-lessons" and over and not hits:
            hits.append(name)
            stored = world.objects[NOTEBOOK]
            key, text = next(iter(theirs.items()))
            other = {key.replace("tp1", "tp8"): text.replace("uid", "foreign")}
            stored["data"] = other | {key: text}
            world.touch(stored)
        return found

    world.get = get  # type: ignore[method-assign]
    finish(world, "b")
    assert hits
    assert len(entries(world)) == 3
    assert len(data(world)) == 2


def test_without_the_right_to_write_runs_end_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    world = learning()
    world.submit()
    world.live_until("Training", "Starting")
    world.tick()
    world.refusals["ConfigMap"] = "cannot create resource configmaps"
    with caplog.at_level(logging.WARNING):
        world.live_until("Succeeded")
        for _ in range(10):
            world.tick()
    assert "lesson" not in world.status()
    told = [text for text in caplog.messages if "is not learnt from" in text]
    assert len(told) == 1


def test_a_run_deleted_at_its_end_has_taught_before() -> None:
    world = learning()
    world.submit(runPolicy={"ttlSecondsAfterFinished": 0})
    for _ in range(60):
        world.tick()
    assert world.of_kind("QwenFineTune") == []
    assert len(entries(world)) == 1
