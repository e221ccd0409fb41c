"""The operator may die before or after any of its writes, and nothing changes in the outcome."""

from __future__ import annotations

from typing import Any

import pytest

from qwenft_operator import names
from simulated import World
from simulated.builders import CONFIG
from simulated.controllers import Ending, Program, succeed_after

Outcome = tuple[Any, ...]


def preempted_once(attempt: int, rank: int, age: float) -> Ending | None:
    if attempt == 1 and rank == 0 and age >= 6:
        return Ending(code=64, message={"exitCode": 64, "reason": "Preempted"})
    return succeed_after(10)(attempt, rank, age)


def broken_dataset(_attempt: int, _rank: int, age: float) -> Ending | None:
    message = {"exitCode": 65, "reason": "DatasetInvalid", "message": "no such file"}
    return Ending(code=65, message=message) if age >= 3 else None


def out_of_memory_once(attempt: int, rank: int, age: float) -> Ending | None:
    if attempt == 1 and rank == 0 and age >= 3:
        return Ending(code=68, message={"exitCode": 68, "reason": "OutOfMemory"})
    return succeed_after(10)(attempt, rank, age)


ROOMY = {
    "model": {"config": CONFIG | {"hidden_size": 512, "intermediate_size": 2048,
                                  "vocab_size": 32000, "num_hidden_layers": 8,
                                  "max_position_embeddings": 1024}},
    "training": {"batchSize": 64, "sequenceLength": 1024},
}  # fmt: skip
"""Of a size at which less memory means another plan."""


def outcome(world: World) -> Outcome:
    """Return what a user can tell of a run that is over; times and versions aside."""
    status = world.live_until("Succeeded", "Failed", seconds=200)
    for _ in range(5):
        world.tick()
    jobs = tuple(job["metadata"]["name"] for job in world.of_kind("Job"))
    pods = tuple(pod["metadata"]["name"] for pod in world.of_kind("Pod"))
    plans = tuple(item["metadata"]["name"] for item in world.of_kind("ConfigMap"))
    planned = next(item["status"] for item in status["conditions"] if item["type"] == "Planned")
    told = (status["plan"]["digest"], planned)
    counters = (status["attempt"], status.get("restarts"), status.get("retries"))
    return (
        status["phase"],
        counters,
        status.get("failure", {}).get("reason"),
        jobs,
        pods,
        plans,
        told,
    )


def live(program: Program, crash_at: int | None, **sections: Any) -> tuple[Outcome, int]:
    world = World()
    world.program(program)
    world.submit(**sections)
    world.crash_at = crash_at
    return outcome(world), len(world.writes)


@pytest.mark.parametrize("program", [preempted_once, broken_dataset, succeed_after(10)])
def test_a_crash_around_any_write_changes_nothing(program: Program) -> None:
    expected, writes = live(program, None)
    assert writes > 5
    for crash_at in range(2 * writes):
        assert live(program, crash_at)[0] == expected, f"crash at {crash_at}"


def test_a_crash_around_any_write_of_a_re_plan_changes_nothing() -> None:
    expected, writes = live(out_of_memory_once, None, **ROOMY)
    assert expected[0] == "Succeeded"
    assert len(expected[5]) == 2, "two plans"
    for crash_at in range(2 * writes):
        assert live(out_of_memory_once, crash_at, **ROOMY)[0] == expected, f"crash at {crash_at}"


def test_a_note_that_somebody_else_wrote_on_the_job_is_not_believed() -> None:
    world = World()
    world.program(succeed_after(15))
    world.submit()
    world.crash_at = 2 * 4
    world.reconcile()
    job = world.objects["Job", "team", "tiny-1"]
    assert world.status() == {}
    for text in ("{", "[]", '{"plan": {"digest": "other"}, "message": "x"}', '{"plan": []}'):
        job["metadata"]["annotations"] = {names.ANNOTATION_PLAN: text}
        world.reconcile()
        assert "plan" not in world.status(), text


def test_a_crash_while_suspending_does_not_count_as_a_failure() -> None:
    for crash_at in range(8):
        world = World()
        world.program(succeed_after(15))
        world.submit()
        for _ in range(5):
            world.tick()
        world.edit(runPolicy={"suspend": True})
        world.crash_at = 2 * len(world.writes) + crash_at
        for _ in range(6):
            world.tick()
        assert world.of_kind("Pod") == []
        world.edit(runPolicy={"suspend": False})
        status = world.live_until("Succeeded", "Failed", seconds=100)
        assert (status["phase"], status["attempt"]) == ("Succeeded", 2)
        assert "failures" not in status


def test_a_crash_while_a_lost_node_is_released_forgets_nothing() -> None:
    for crash_at in range(8):
        world = World()
        world.program(succeed_after(60))
        world.submit(resources={"nodes": {"min": 1, "max": 2}})
        for _ in range(5):
            world.tick()
        world.report(3)
        world.tick()
        world.lose("node-2")
        world.crash_at = 2 * len(world.writes) + crash_at
        status = world.live_until("Succeeded", "Failed", seconds=200)
        assert (status["phase"], status["attempt"], status["retries"]) == ("Succeeded", 2, 1)
        assert [item["reason"] for item in status["failures"]] == ["NodeLost"]
