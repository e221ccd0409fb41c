"""Single decisions: one moment of a run goes in, one step comes out, nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwenft_operator import names
from qwenft_operator.decide import decide
from qwenft_operator.decision import Decision
from qwenft_operator.nodes import Capacity, capacity
from qwenft_operator.observe import JobView, Observed, PodView
from qwenft_operator.run import Run
from qwenft_operator.situation import Situation
from qwenft_plan.progress import Progress
from simulated import node_body
from simulated.builders import run_body

NOW = 1_800_000_000.0
PLAN = {"digest": "abc", "nodes": 2}


def at(seconds: float) -> str:
    from qwenft_operator.clock import format_time  # noqa: PLC0415 - next to its only use

    return format_time(NOW + seconds)


def situation(
    status: dict[str, Any] | None = None,
    *,
    jobs: tuple[JobView, ...] = (),
    pods: tuple[PodView, ...] = (),
    metadata: dict[str, Any] | None = None,
    progress: Progress | None = None,
    nodes: int | None = None,
    obstacles: tuple[str, ...] = (),
    **spec: Any,
) -> Situation:
    body = run_body(**spec)
    body["metadata"] |= {"uid": "u", "generation": 1, "creationTimestamp": at(-1000)}
    body["metadata"] |= metadata or {}
    run = Run.from_object(body | {"status": status or {}})
    observed = Observed(jobs=jobs, pods=pods, progress=progress)
    made = Situation(run=run, observed=observed, now=NOW, obstacles=obstacles)
    return made if nodes is None else replace(made, capacity=free(run, nodes))


def free(run: Run, nodes: int) -> Capacity:
    assert run.spec is not None
    bodies = [node_body(f"node-{index}") for index in range(nodes)]
    return capacity(run.spec.resources, bodies, [])


def job(attempt: int = 1, **fields: Any) -> JobView:
    given: dict[str, Any] = {"created_at": NOW - 100} | fields
    return JobView(name=f"tiny-{attempt}", uid=f"j{attempt}", attempt=attempt, plan="abc", pods=2,
                   **given)  # fmt: skip


def pod(index: int = 0, attempt: int = 1, **fields: Any) -> PodView:
    given: dict[str, Any] = {"phase": "Running", "node": f"node-{index}"} | fields
    return PodView(name=f"tiny-{attempt}-{index}", uid=f"p{index}", attempt=attempt, index=index,
                   **given)  # fmt: skip


def status_of(phase: str, attempt: int = 1, **fields: Any) -> dict[str, Any]:
    return {"phase": phase, "attempt": attempt, "plan": PLAN, "observedGeneration": 1} | fields


def failed_once(**fields: Any) -> dict[str, Any]:
    entry = {"attempt": 1, "reason": "NodeLost", "message": "m", "time": at(-1)}
    return status_of("Restarting", restarts=1, retries=1, failures=[entry], failure=entry) | fields


def phase(decision: Decision) -> str:
    assert decision.status is not None
    return str(decision.status["phase"])


def deleted(decision: Decision) -> list[tuple[str, str, int | None]]:
    return [(item.kind, item.name, item.grace) for item in decision.delete]


def test_a_run_being_deleted_is_left_to_the_collector() -> None:
    found = decide(situation(metadata={"deletionTimestamp": at(0)}, nodes=2))
    assert found == Decision()


def test_capacity_is_asked_for_only_when_an_attempt_is_due() -> None:
    assert decide(situation()).wants_capacity
    assert not decide(situation(status_of("Training"), jobs=(job(),))).wants_capacity
    assert not decide(situation(runPolicy={"suspend": True})).wants_capacity
    assert decide(situation(failed_once())).wants_capacity


def test_a_start_counts_from_what_exists_not_only_from_what_is_remembered() -> None:
    lost_write = situation(failed_once(), jobs=(job(1, failed="x"), job(2, failed="x")))
    assert lost_write.attempt == 2


def test_an_attempt_whose_write_was_lost_is_taken_up() -> None:
    found = decide(situation({}, jobs=(job(1),), pods=(pod(0), pod(1))))
    assert found.apply == ()
    assert found.status is not None
    assert (found.status["attempt"], phase(found)) == (1, "Starting")


@pytest.mark.parametrize("ended", ["Succeeded", "Failed"])
def test_the_end_is_final_whatever_is_seen_later(ended: str) -> None:
    found = decide(situation(status_of(ended), jobs=(job(2),), pods=(pod(0, 2),), nodes=2))
    assert (found.apply, found.status) == ((), None)
    assert deleted(found) == [("Job", "tiny-2", None)]


def test_the_end_still_learns_of_a_new_generation() -> None:
    old = status_of("Succeeded", observedGeneration=1, conditions=[{"type": "Ready"}])
    found = decide(situation(old, metadata={"generation": 2}))
    assert found.status is not None
    assert found.status["observedGeneration"] == 2
    assert found.status["conditions"][0]["observedGeneration"] == 2


def test_a_finished_run_waits_out_its_time() -> None:
    done = status_of("Succeeded", completionTime=at(-4))
    found = decide(situation(done, runPolicy={"ttlSecondsAfterFinished": 10}))
    assert (found.requeue_after, found.delete) == (6.0, ())
    late = decide(situation(done, runPolicy={"ttlSecondsAfterFinished": 3}))
    assert deleted(late) == [(names.KIND, "tiny", None)]


def test_nothing_starts_while_a_pod_of_an_earlier_attempt_may_run() -> None:
    found = decide(situation(failed_once(), pods=(pod(1),), nodes=2))
    assert found.apply == ()
    assert phase(found) == "Restarting"
    assert found.requeue_after is not None


def test_nothing_starts_while_a_job_of_an_earlier_attempt_could_make_pods() -> None:
    found = decide(situation(failed_once(), jobs=(job(1),), nodes=2))
    assert found.apply == ()
    assert deleted(found) == [("Job", "tiny-1", None)]


def test_a_pod_on_a_lost_node_is_forced_out_of_the_way() -> None:
    pods = (pod(0), pod(1, node_lost=True))
    found = decide(situation(failed_once(), jobs=(job(1),), pods=pods))
    assert ("Pod", "tiny-1-1", 0) in deleted(found)
    assert ("Pod", "tiny-1-0", 0) not in deleted(found)


@pytest.mark.parametrize(
    ("reason", "hurries"),
    [("NodeLost", True), ("Hung", True), ("JobDeleted", False), ("Preempted", False)],
)
def test_a_pod_whose_peer_is_lost_has_nothing_to_save(reason: str, *, hurries: bool) -> None:
    status = failed_once()
    status["failures"][0]["reason"] = reason
    pods = (pod(0), pod(1, node_lost=True))
    found = decide(situation(status, jobs=(job(),), pods=pods))
    assert (("Pod", "tiny-1-0", 3) in deleted(found)) is hurries
    ending = (pod(0, deleting=True, grace=3), pod(1, node_lost=True))
    again = decide(situation(status, jobs=(job(),), pods=ending))
    assert ("Pod", "tiny-1-0", 3) not in deleted(again), "once is enough"


def test_pods_are_hurried_before_their_job_is_deleted() -> None:
    """Deleted with its Job a pod has its whole grace period, and its kubelet sticks to that."""
    pods = (pod(0), pod(1, node_lost=True))
    found = decide(situation(failed_once(), jobs=(job(),), pods=pods))
    assert deleted(found) == [
        ("Pod", "tiny-1-1", 0), ("Pod", "tiny-1-0", 3), ("Job", "tiny-1", None),
    ]  # fmt: skip


def test_a_failure_is_written_before_anything_is_deleted() -> None:
    pods = (pod(0), pod(1, node_lost=True, deleting=True))
    found = decide(situation(status_of("Training"), jobs=(job(),), pods=pods))
    assert phase(found) == "Restarting"
    assert found.delete == ()
    assert found.requeue_after == 0.0


def test_peers_of_a_failed_pod_are_hurried_once_the_job_controller_knows() -> None:
    pods = (pod(0, exit_code=70, phase="Failed"), pod(1))
    unseen = decide(situation(status_of("Training"), jobs=(job(),), pods=pods))
    assert unseen.delete == ()
    known = decide(situation(status_of("Training"), jobs=(job(failing=True),), pods=pods))
    assert deleted(known) == [("Pod", "tiny-1-1", 3)]


@pytest.mark.parametrize("code", [64, 69])
def test_peers_that_may_be_saving_are_not_hurried(code: int) -> None:
    pods = (pod(0, exit_code=code, phase="Failed"), pod(1))
    found = decide(situation(status_of("Training"), jobs=(job(failing=True),), pods=pods))
    assert found.delete == ()


def test_a_pod_is_not_hurried_twice() -> None:
    pods = (pod(0, exit_code=70, phase="Failed"), pod(1, deleting=True, grace=3))
    found = decide(situation(status_of("Training"), jobs=(job(failing=True),), pods=pods))
    assert found.delete == ()


def test_suspending_is_written_before_the_job_is_deleted() -> None:
    policy = {"suspend": True}
    running = {"jobs": (job(),), "pods": (pod(0), pod(1))}
    first = decide(situation(status_of("Training"), runPolicy=policy, **running))
    assert (phase(first), first.delete) == ("Suspended", ())
    assert first.status is not None
    assert first.status["suspendedAttempt"] == 1
    known = status_of("Suspended", suspendedAttempt=1)
    second = decide(situation(known, runPolicy=policy, **running))
    assert deleted(second) == [("Job", "tiny-1", None)]


def test_a_run_that_completes_while_it_is_being_suspended_has_completed() -> None:
    found = decide(
        situation(
            status_of("Suspended", suspendedAttempt=1),
            jobs=(job(complete=True),),
            runPolicy={"suspend": True},
        )
    )
    assert phase(found) == "Succeeded"


def test_the_deadline_wakes_the_run_in_time() -> None:
    started = status_of("Training", startTime=at(-20))
    policy = {"activeDeadlineSeconds": 50}
    found = decide(situation(started, jobs=(job(),), pods=(pod(0), pod(1)), runPolicy=policy))
    assert found.requeue_after == 30.0


def test_progress_of_another_attempt_is_not_this_one_s() -> None:
    stale = Progress(attempt=1, step=50, total_steps=100)
    status = failed_once(attempt=2, phase="Starting")
    found = decide(situation(status, jobs=(job(2),), pods=(pod(0, 2),), progress=stale))
    assert phase(found) == "Starting"
    assert found.status is not None
    assert "progress" not in found.status


def test_a_run_that_has_reported_trains_also_after_the_operator_was_restarted() -> None:
    known = {"attempt": 1, "step": 0, "totalSteps": 9, "lastUpdatedTime": at(-1)}
    status = status_of("Training", progress=known)
    assert phase(decide(situation(status, jobs=(job(),), pods=(pod(0), pod(1))))) == "Training"


def test_the_first_report_is_written_at_once_and_the_next_ones_are_not() -> None:
    first = Progress(attempt=1, step=1, total_steps=100)
    found = decide(situation(status_of("Starting"), jobs=(job(),), pods=(pod(0),), progress=first))
    assert phase(found) == "Training"
    known = {"attempt": 1, "step": 1, "totalSteps": 100, "lastUpdatedTime": at(-1)}
    training = dict(found.status or {}) | {"progress": known}
    second = replace(first, step=2)
    later = decide(situation(training, jobs=(job(),), pods=(pod(0),), progress=second))
    assert later.status is None
    assert later.requeue_after == 2.0


def test_the_second_counted_restart_waits_and_says_so() -> None:
    found = decide(situation(failed_once(retries=2), nodes=2))
    assert (phase(found), found.requeue_after) == ("Restarting", 9.0)
    assert found.status is not None
    assert "starts after 10 s" in found.status["message"]
    assert "ended by NodeLost" in found.status["message"]


def test_less_capacity_is_accepted_only_after_a_grace_time() -> None:
    resources = {"nodes": {"min": 1, "max": 2}, "processesPerNode": 1}
    early = decide(situation(failed_once(), nodes=1, resources=resources))
    assert early.apply == ()
    assert early.status is not None
    assert "1 of 2 nodes are there" in early.status["message"]
    old = failed_once()
    old["failures"][0]["time"] = at(-11)
    late = decide(situation(old, nodes=1, resources=resources))
    assert [item["kind"] for item in late.apply][-1] == "Job"


def test_missing_objects_are_waited_for_then_not() -> None:
    told = ("spec.dataset: there is no claim",)
    young = {"creationTimestamp": at(-10)}
    assert phase(decide(situation(metadata=young, nodes=2, obstacles=told))) == "Pending"
    assert phase(decide(situation(nodes=2, obstacles=told))) == "Failed"


def test_an_event_is_told_when_the_phase_changes_and_only_then() -> None:
    pods = (pod(0, ready=True), pod(1, ready=True))
    first = decide(situation({}, jobs=(job(),), pods=pods))
    assert [notice.reason for notice in first.events] == ["Starting"]
    again = decide(situation(dict(first.status or {}), jobs=(job(),), pods=pods))
    assert (again.status, again.events) == (None, ())


def test_a_container_that_has_ended_is_not_hurried_before_its_pod_has() -> None:
    """Its pod is the one that tells why, and is told to have ended a moment later."""
    pods = (pod(0, exit_code=70), pod(1))
    found = decide(situation(status_of("Training"), jobs=(job(failing=True),), pods=pods))
    assert deleted(found) == [("Pod", "tiny-1-1", 3)]


@pytest.mark.parametrize("status", [{}, status_of("Training")])
def test_a_run_of_another_controller_is_left_alone(status: dict[str, Any]) -> None:
    policy = {"managedBy": "kueue.x-k8s.io/multikueue"}
    found = decide(situation(status, jobs=(job(failed="x"),), nodes=2, runPolicy=policy))
    assert found == Decision()


def test_no_rest_between_two_attempts_is_longer_than_five_minutes() -> None:
    entry = {"attempt": 1, "reason": "WorkerError", "message": "m", "time": at(-299)}
    often = failed_once(retries=30, failures=[entry], failure=entry)
    resting = decide(situation(often, nodes=2, runPolicy={"backoffLimit": 99}))
    assert (resting.apply, resting.requeue_after) == ((), 1.0)
    entry["time"] = at(-301)
    assert decide(situation(often, nodes=2, runPolicy={"backoffLimit": 99})).apply


@pytest.mark.parametrize("status", [{}, failed_once()])
def test_objects_of_an_earlier_run_of_the_name_are_waited_out(status: dict[str, Any]) -> None:
    made = situation(status, nodes=2)
    waiting = decide(replace(made, observed=replace(made.observed, foreign=("Pod/tiny-1-0",))))
    assert (waiting.apply, waiting.delete) == ((), ())
    assert waiting.status is not None
    assert "waiting for Pod/tiny-1-0 of an earlier run" in waiting.status["message"]
    assert waiting.requeue_after is not None
    assert decide(made).apply, "and then it starts"


@pytest.mark.parametrize(("suspended", "given_up"), [(True, False), (False, True)])
def test_pods_are_not_given_up_for_a_queue_that_has_stopped_their_job(
    *, suspended: bool, given_up: bool
) -> None:
    waits = {"phase": "Pending", "unscheduled": "0/2 nodes", "node": ""}
    pods = (pod(0, **waits), pod(1, **waits))
    asked = situation(status_of("Queued"), jobs=(job(suspended=suspended),), pods=pods)
    found = decide(replace(asked, still_for=400.0))
    assert bool((found.status or {}).get("failures")) is given_up


@pytest.mark.parametrize(("age", "given_up"), [(119.0, False), (121.0, True)])
def test_an_image_has_two_minutes_to_come(age: float, *, given_up: bool) -> None:
    """A registry that is away for a moment ends no attempt."""
    late = pod(0, phase="Pending", waiting="ErrImagePull: timeout")
    asked = situation(status_of("Starting"), jobs=(job(),), pods=(late, pod(1)))
    found = decide(replace(asked, still_for=age))
    assert found.status is not None
    assert ("failures" in found.status) is given_up


def test_an_image_whose_name_is_none_is_given_up_at_once() -> None:
    wrong = pod(0, phase="Pending", waiting="InvalidImageName: x", created_at=NOW - 1)
    found = decide(situation(status_of("Starting"), jobs=(job(),), pods=(wrong, pod(1))))
    assert found.status is not None
    assert "failures" in found.status
