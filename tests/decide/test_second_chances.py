"""Failures that change what the next attempt starts from: its checkpoint, its memory."""

from __future__ import annotations

from typing import Any

from simulated import World
from simulated.controllers import Ending, Program, succeed_after

BOUND = "QWENFT_CHECKPOINT_BEFORE_STEP"


def variables(world: World, attempt: int) -> dict[str, str]:
    job = world.objects["Job", "team", f"tiny-{attempt}"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item.get("value", "") for item in container["env"]}


def ending(codes: dict[int, int]) -> Program:
    """Return a program that ends with a code in some attempts, and well in the others."""
    success = succeed_after(30)

    def program(attempt: int, rank: int, age: float) -> Ending | None:
        code = codes.get(attempt)
        if code is None:
            return success(attempt, rank, age)
        told = {"exitCode": code, "message": "loss is nan", "rank": rank, "step": 44}
        return Ending(code=code, message=told) if age >= 12 else None

    return program


def trained(world: World, attempt: int, step: int, checkpoint: int | None) -> None:
    """Let an attempt start and report once."""
    for _ in range(40):
        if world.status().get("attempt") == attempt and world.status()["phase"] == "Starting":
            break
        world.tick()
    world.tick()
    world.tick()
    world.report(step, checkpoint=checkpoint)
    world.tick()


def test_a_non_finite_loss_goes_on_from_an_older_checkpoint() -> None:
    world = World()
    world.submit(checkpoint={"everySteps": 20})
    world.program(ending({1: 67}))
    trained(world, 1, 44, 40)
    assert BOUND not in variables(world, 1)
    trained(world, 2, 22, 20)
    assert variables(world, 2)[BOUND] == "40"
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"], status["retries"]) == ("Succeeded", 2, 1)
    (told,) = [e["message"] for e in world.events if e["reason"] == "WorkerError"
               or e["reason"] == "NumericError"]  # fmt: skip
    assert "older than that of step 40" in told


def test_what_was_saved_on_the_way_out_is_known_by_the_first_report_of_the_next_attempt() -> None:
    world = World()
    world.submit(checkpoint={"everySteps": 20})
    world.program(ending({2: 67}))
    trained(world, 1, 44, 40)
    world.edit(runPolicy={"suspend": True})
    world.live_until("Suspended", seconds=30)
    for _ in range(70):
        world.tick()
    world.edit(runPolicy={"suspend": False})
    trained(world, 2, 45, 40)
    world.report(45, checkpoint=45)  # the attempt ends within the second, before it is written down
    trained(world, 3, 41, None)
    assert variables(world, 3)[BOUND] == "45", "40 is sound, and goes on"


def test_the_same_loss_from_there_ends_the_run() -> None:
    world = World()
    world.submit(checkpoint={"everySteps": 20})
    world.program(ending({1: 67, 2: 67}))
    trained(world, 1, 44, 40)
    trained(world, 2, 44, 40)
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Failed", 2)
    assert "came again from an older checkpoint" in status["message"]


def test_the_bound_holds_until_newer_checkpoints_replace_the_bad_ones() -> None:
    world = World()
    world.submit(checkpoint={"everySteps": 20})
    world.program(ending({1: 67, 2: 69, 3: 69}))
    trained(world, 1, 44, 40)
    trained(world, 2, 22, 20)  # lost before it saved anything anew
    trained(world, 3, 44, 40)  # saved step 40 anew
    assert variables(world, 3)[BOUND] == "40"
    world.live_until("Succeeded", "Failed")
    assert world.status()["attempt"] == 4
    assert BOUND not in variables(world, 4)


def oom_killed(world: World, attempts: tuple[int, ...]) -> None:
    """Let pods of these attempts be killed by the kernel after five seconds."""
    success = succeed_after(10)

    def program(attempt: int, rank: int, age: float) -> Ending | None:
        if attempt not in attempts:
            return success(attempt, rank, age)
        return Ending(code=137, reason="OOMKilled") if age >= 5 else None

    world.program(program)


def memory(world: World, attempt: int) -> Any:
    job = world.objects["Job", "team", f"tiny-{attempt}"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container["resources"]["limits"]["memory"]


def test_a_killed_container_gets_half_as_much_again() -> None:
    world = World()
    world.submit(resources={"memoryPerNode": "4Gi"})
    oom_killed(world, (1,))
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"], status["retries"]) == ("Succeeded", 2, 1)
    assert status["memoryPerNodeGiB"] == 6.0
    assert memory(world, 2) == str(6 * 2**30)


def test_it_is_raised_once_only() -> None:
    world = World()
    world.submit(resources={"memoryPerNode": "4Gi"})
    oom_killed(world, (1, 2, 3))
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Failed", 2)
    assert "6.00 GiB, already raised, are not enough" in status["message"]


def test_it_stops_with_the_numbers_where_no_node_has_so_much() -> None:
    world = World()
    world.submit(resources={"memoryPerNode": "6Gi"})
    oom_killed(world, (1,))
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Failed", 1)
    assert "no node has the 9.00 GiB" in status["message"]
    assert "instead" not in status["failure"]["message"]


def test_a_restarted_script_is_said_to_start_from_its_beginning() -> None:
    world = World()
    world.put({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "code", "namespace": "team"}, "data": {"train.py": ""},
    })  # fmt: skip
    world.submit(trainer={"script": {"configMap": {"name": "code"}}})
    world.program(ending({1: 69}))
    trained(world, 1, 4, None)
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Succeeded", 2)
    told = {event["reason"]: event["message"] for event in world.events}
    assert "from its beginning" in told["CommunicationFailure"]
    starts = [event["message"] for event in world.events if event["reason"] == "Starting"]
    assert ["from its beginning" in start for start in starts] == [False, True]
    assert not any("checkpoint" in text for text in (*told.values(), *starts))


def test_a_restarted_loop_is_not() -> None:
    world = World()
    world.submit()
    world.program(ending({1: 69}))
    trained(world, 1, 4, None)
    assert world.live_until("Succeeded", "Failed")["attempt"] == 2
    assert not any("from its beginning" in event["message"] for event in world.events)
