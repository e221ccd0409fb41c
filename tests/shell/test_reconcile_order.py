"""What a look may not do when its status could not be written, and whom it fences off."""

from __future__ import annotations

from typing import Any

from qwenft_operator import names
from qwenft_operator.decision import Decision, Deletion, Notice
from qwenft_operator.port import Conflict
from qwenft_plan.progress import Progress
from simulated import World


def running() -> World:
    world = World()
    world.program(lambda *_: None)
    world.submit()
    world.settle()
    return world


def test_nothing_is_told_or_deleted_over_a_status_that_changed_meanwhile() -> None:
    world = running()
    body = world.objects[names.KIND, "team", "tiny"]
    situation = world.wait_for(world.reconciler._situation(body))
    job = world.objects["Job", "team", "tiny-1"]["metadata"]
    decision = Decision(
        status={"phase": "Restarting"},
        events=(Notice(reason="Restarting", message="never seen"),),
        delete=(Deletion(kind="Job", name="tiny-1", uid=job["uid"]),),
        requeue_after=5.0,
    )

    async def conflict(_body: Any) -> None:
        raise Conflict("tiny")

    written = world.replace_status
    world.replace_status = conflict  # type: ignore[method-assign]
    assert world.wait_for(world.reconciler._execute(body, situation, decision)) == 0.0
    assert ("Job", "team", "tiny-1") in world.objects
    assert "never seen" not in [event["message"] for event in world.events]
    world.replace_status = written  # type: ignore[method-assign]
    assert world.wait_for(world.reconciler._execute(body, situation, decision)) == 5.0
    assert ("Job", "team", "tiny-1") not in world.objects
    assert world.events[-1]["message"] == "never seen"


def test_a_look_fences_the_attempts_before_off() -> None:
    world = running()
    uid = world.objects[names.KIND, "team", "tiny"]["metadata"]["uid"]
    world.wait_for(world.reconciler._situation(world.objects[names.KIND, "team", "tiny"]))
    assert not world.reports.put(uid, Progress(attempt=0, step=1, total_steps=2))
    assert world.reports.put(uid, Progress(attempt=1, step=1, total_steps=2))
