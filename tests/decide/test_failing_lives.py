"""Lives in which something fails: pods, nodes, memory, connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from qwenft_operator.start import LOST_GRACE
from simulated import World, node_body
from simulated.controllers import Ending, fails, succeed_after


@pytest.mark.parametrize(
    ("code", "reason"),
    [(65, "DatasetInvalid"), (66, "PlanInvalid")],
)
def test_what_would_fail_again_stops_at_once(code: int, reason: str) -> None:
    world = World()
    world.submit()
    world.program(fails(code, attempts=9))
    status = world.live_until("Succeeded", "Failed")
    assert status["phase"] == "Failed"
    assert status["failure"]["reason"] == reason
    assert status["failure"]["exitCode"] == code
    assert status["failure"]["rank"] == 1
    assert status["attempt"] == 1
    assert world.condition("Stalled") == "True"
    assert world.events[-1]["reason"] == reason


def test_out_of_memory_is_planned_anew_with_less() -> None:
    world = World()
    world.submit(training={"batchSize": 64, "sequenceLength": 256})
    world.program(fails(68, attempts=1))
    world.settle()
    first = world.status()["plan"]
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"], status["retries"]) == ("Succeeded", 2, 1)
    budget = status["memoryBudgetGiB"]
    assert budget == pytest.approx(0.9 * first["predicted"]["memoryGiB"], abs=1e-6)
    assert status["plan"]["predicted"]["memoryGiB"] < first["predicted"]["memoryGiB"]
    assert status["plan"]["digest"] != first["digest"]
    (told,) = [e["message"] for e in world.events if e["reason"] == "OutOfMemory"]
    assert "the next one may need" in told


def test_out_of_memory_stops_with_the_numbers_when_no_plan_is_left() -> None:
    world = World()
    fixed = {"dataReplicate": 2, "dataShard": 1, "tensor": 1, "pipeline": 1, "microBatchSize": 4,
             "activationCheckpointing": "none"}  # fmt: skip
    world.submit(training={"batchSize": 64, "sequenceLength": 256}, parallelism=fixed)
    world.program(fails(68, attempts=9))
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Failed", 1)
    assert "no plan is left within" in status["message"]
    assert "GiB too much" in status["message"]
    assert status["failure"]["reason"] == "OutOfMemory"


def test_a_node_that_fails_repeatedly_is_avoided_where_another_is_free() -> None:
    world = World(nodes=("node-1", "node-2", "node-3"))
    world.submit()
    success = succeed_after(10)

    def program(attempt: int, rank: int, age: float) -> Ending | None:
        pod = world.objects["Pod", "team", f"tiny-{attempt}-{rank}-x"]
        if pod["spec"]["nodeName"] == "node-2" and age >= 6:
            return Ending(code=70, message={"exitCode": 70, "message": "ECC error"})
        return success(attempt, rank, age)

    world.program(program)
    for _ in range(300):
        status = world.status()
        if status.get("phase") in ("Succeeded", "Failed"):
            break
        if status.get("attempt"):
            world.report(4, attempt=status["attempt"])
        world.tick()
    assert (status["phase"], status["attempt"]) == ("Succeeded", 3)
    job = world.objects["Job", "team", "tiny-3"]
    text = str(job["spec"]["template"]["spec"]["affinity"])
    assert "'NotIn', 'values': ['node-2']" in text
    assert any("Avoids node-2" in event["message"] for event in world.events)


def test_failures_long_ago_are_forgiven() -> None:
    world = World()
    world.submit(runPolicy={"backoffLimit": 1})

    def program(attempt: int, _rank: int, age: float) -> Ending | None:
        if attempt < 4:
            return Ending(code=69) if age >= 4000 else None
        return succeed_after(5)(attempt, _rank, age)

    world.program(program)
    for _ in range(800):
        status = world.status()
        if status.get("phase") in ("Succeeded", "Failed"):
            break
        if status.get("phase") in ("Starting", "Training") and status.get("attempt"):
            world.now += 30
            world.report(int(world.now) % 10**6, attempt=status["attempt"])
        world.tick()
    assert (status["phase"], status["restarts"], status["retries"]) == ("Succeeded", 3, 1)


def test_a_restarting_run_keeps_its_nodes() -> None:
    world = World()
    world.program(fails(69, attempts=1))
    world.submit("one", resources={"nodes": {"min": 2}, "processesPerNode": 2})
    world.settle("one")
    world.submit("two", resources={"nodes": {"min": 2}, "processesPerNode": 2})
    world.settle("two")
    assert world.status("two")["phase"] == "Pending"
    for _ in range(40):
        world.tick("two")
        world.settle("one")
        if world.status("one").get("attempt") == 2:
            break
    assert world.status("one")["attempt"] == 2
    assert world.status("two")["phase"] == "Pending"


def test_a_worker_error_before_the_first_step_is_not_retried() -> None:
    world = World()
    world.submit()
    world.program(fails(70, attempts=9))
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Failed", 1)
    assert "before its first step" in status["message"]


def test_a_worker_error_after_a_step_restarts() -> None:
    world = World()
    world.submit()
    world.program(fails(70, after=8))
    for _ in range(6):
        world.tick()
    world.report(4)
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"], status["restarts"]) == ("Succeeded", 2, 1)
    assert status["failures"][0]["reason"] == "WorkerError"


def test_the_cause_is_never_the_consequence() -> None:
    world = World()
    world.submit()
    world.program(fails(70, attempts=9, index=0))
    failure = world.live_until("Failed")["failure"]
    assert failure["exitCode"] == 70
    assert failure["pod"] == "tiny-1-0-x"


def test_a_cause_is_remembered_when_its_pod_vanishes_before_the_end() -> None:
    world = World()
    world.submit()
    world.program(fails(65, attempts=9, index=0))
    for _ in range(40):
        world.tick()
        if world.status().get("failure"):
            break
    assert "failures" not in world.status(), "seen, not judged yet"
    world.objects.pop(("Pod", "team", "tiny-1-0-x"), None)
    world.reconciler = world.new_process()
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Failed", 1)
    assert status["failure"]["reason"] == "DatasetInvalid"
    assert [item["exitCode"] for item in status["failures"]] == [65]


def test_lost_connections_restart_until_the_limit() -> None:
    world = World()
    world.submit(runPolicy={"backoffLimit": 2})
    world.program(fails(69, attempts=9))
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Failed", 3)
    assert "backoffLimit of 2" in status["message"]
    assert [item["attempt"] for item in status["failures"]] == [1, 2, 3]


def test_preemptions_do_not_count() -> None:
    world = World()
    world.submit(runPolicy={"backoffLimit": 0})
    world.program(fails(64, attempts=7))
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["restarts"], status["retries"]) == ("Succeeded", 7, 0)
    assert len(status["failures"]) == 5


def test_a_deleted_job_is_replaced_by_the_next_attempt() -> None:
    world = World()
    world.submit()
    for _ in range(4):
        world.tick()
    del world.objects["Job", "team", "tiny-1"]
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Succeeded", 2)
    assert status["failures"][0]["reason"] == "JobDeleted"


def test_a_job_that_one_old_list_leaves_out_is_not_taken_for_deleted() -> None:
    world = OldList()
    world.submit()
    for _ in range(4):
        world.tick()
    world.leaves_out = True
    world.settle()
    world.leaves_out = False
    status = world.live_until("Succeeded", "Failed")
    assert (status["phase"], status["attempt"]) == ("Succeeded", 1)
    assert "failures" not in status


class OldList(World):
    """A cluster whose list of Jobs is, for a while, one from before the run."""

    leaves_out = False

    async def list(
        self, kind: str, namespace: str = "", **words: Any
    ) -> tuple[Mapping[str, Any], ...]:
        """List, but no Jobs while they are left out, however they are asked for."""
        if kind == "Job" and self.leaves_out:
            return ()
        return await super().list(kind, namespace, **words)


def test_only_the_newest_ended_job_is_kept() -> None:
    world = World()
    world.submit()
    world.program(fails(64, attempts=3))
    world.live_until("Succeeded")
    assert [job["metadata"]["name"] for job in world.of_kind("Job")] == ["tiny-3", "tiny-4"]


def test_a_lost_node_is_released_and_the_run_goes_on_with_what_is_left() -> None:
    world = World()
    world.submit(resources={"nodes": {"min": 1, "max": 2}})
    world.program(succeed_after(60))
    for _ in range(5):
        world.tick()
    world.report(7)
    world.tick()
    world.lose("node-2")
    world.live_until("Restarting", seconds=12)
    since = world.now
    status = world.live_until("Starting", seconds=60)
    assert world.now - since <= LOST_GRACE + 2, "the control plane has waited for it already"
    assert status["failure"]["reason"] == "NodeLost"
    assert status["failure"]["node"] == "node-2"
    assert status["plan"]["nodes"] == 1
    assert world.live_until("Succeeded", "Failed")["phase"] == "Succeeded"
    assert not any("-1-1" in pod["metadata"]["name"] for pod in world.of_kind("Pod"))


def test_a_lost_node_that_comes_back_within_the_grace_time_is_used_again() -> None:
    world = World()
    world.submit(resources={"nodes": {"min": 1, "max": 2}})
    world.program(succeed_after(60))
    for _ in range(5):
        world.tick()
    world.report(7)
    world.tick()
    world.lose("node-2")
    world.live_until("Restarting", seconds=40)
    world.tick()
    world.put(node_body("node-2"))
    assert world.live_until("Starting", seconds=30)["plan"]["nodes"] == 2


def test_a_run_that_goes_on_despite_a_silent_node_is_left_alone() -> None:
    world = World()
    world.submit()
    world.program(succeed_after(100))
    for _ in range(5):
        world.tick()
    world.lose("node-2")
    for step in range(1, 40):
        world.report(step)
        world.tick()
    assert world.status()["attempt"] == 1
    assert world.status()["phase"] == "Training"
