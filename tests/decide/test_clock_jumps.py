"""The operator's clock is set, far forward or far back, at every moment of a life."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwenft_operator.reconcile import Reconciler
from simulated import World
from simulated.controllers import Ending, Program, fails, succeed_after

DAY = 86_400.0
JUMPS = (-400 * DAY, -DAY, -3600.0, 600.0, 3000.0)
FAR_AHEAD = (3600.0, 5 * 3600.0, DAY, 400 * DAY)
"""Seconds. Deadlines are over then, and failures long past; a run that gets on gets on."""


class Astray(World):
    """A world in which the operator alone is mistaken about the time."""

    def __init__(self) -> None:
        self.ahead = 0.0
        super().__init__()
        self.settings = replace(self.settings, progress_url="https://operator")
        self.reconciler = self.new_process()

    def new_process(self) -> Reconciler:
        reconciler = super().new_process()
        reconciler._clock = lambda: self.now + self.ahead
        return reconciler


def life(program: Program, moment: int, jump: float, **sections: object) -> Astray:
    """Lead a run to its end; at a moment the clock jumps, and half an hour later it is right."""
    world = Astray()
    world.program(program)
    world.submit(**sections)
    for second in range(4000):
        if world.status().get("phase") in ("Succeeded", "Failed"):
            return world
        world.ahead = jump if moment <= second < moment + 1800 else 0.0
        if second % 5 == 0 and world.status().get("phase") in ("Starting", "Training"):
            world.report(second // 5 + 1)
        world.tick()
    raise AssertionError(f"never ended: {world.status()}")


def preempted_twice(attempt: int, rank: int, age: float) -> Ending | None:
    if attempt <= 2 and rank == 0 and age >= 6:
        return Ending(code=64, message={"exitCode": 64, "reason": "Preempted"})
    return succeed_after(10)(attempt, rank, age)


@pytest.mark.parametrize("moment", [0, 1, 3, 8, 14, 20])
@pytest.mark.parametrize("jump", JUMPS + FAR_AHEAD)
def test_a_run_ends_as_it_would_by_the_right_clock(jump: float, moment: int) -> None:
    right = life(preempted_twice, moment, 0.0).status()
    wrong = life(preempted_twice, moment, jump).status()
    assert (wrong["phase"], right["phase"]) == ("Succeeded", "Succeeded")
    assert wrong["attempt"] == right["attempt"]


@pytest.mark.parametrize("jump", JUMPS)
def test_a_run_that_cannot_succeed_fails_by_any_clock(jump: float) -> None:
    told = life(fails(69, attempts=99), 5, jump, runPolicy={"backoffLimit": 2}).status()
    assert (told["phase"], told["attempt"]) == ("Failed", 3)


@pytest.mark.parametrize("jump", [-DAY, -400 * DAY])
def test_a_clock_that_is_set_back_lets_no_run_rest_for_longer_than_its_rest(jump: float) -> None:
    world = Astray()
    world.program(fails(69, attempts=3))
    world.submit(runPolicy={"backoffLimit": 5})
    for _ in range(200):
        world.tick()
        if world.status().get("reason") == "BackingOff" or world.status().get("retries", 0) == 2:
            break
    world.ahead = jump
    for _ in range(60):
        world.tick()
    assert world.status()["attempt"] >= 3


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_progress_is_shown_by_any_clock(jump: float) -> None:
    world = Astray()
    world.program(succeed_after(10**6))
    world.submit()
    for second in range(60):
        world.ahead = jump if second >= 20 else 0.0
        world.report(second + 1)
        world.tick()
    assert world.status()["progress"]["step"] >= 56
    assert world.status()["attempt"] == 1


@pytest.mark.parametrize("jump", [-DAY, -400 * DAY])
def test_what_is_over_is_deleted_no_later_than_its_time_to_live_after_the_jump(jump: float) -> None:
    world = Astray()
    world.program(succeed_after(3))
    world.submit(runPolicy={"ttlSecondsAfterFinished": 30})
    world.live_until("Succeeded")
    world.ahead = jump
    delay = world.reconcile()
    assert delay is not None
    assert 0 <= delay <= 30
