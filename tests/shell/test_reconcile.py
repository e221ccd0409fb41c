"""The reconciler over an in-memory cluster: what stops a run from starting, and what it is told."""

from __future__ import annotations

import asyncio

import pytest

from qwenft_operator import names
from qwenft_operator.reconcile import Key
from simulated import World, node_body


def test_a_run_that_does_not_exist_is_dropped() -> None:
    world = World()
    assert world.reconcile("nobody") is None
    assert world.writes == []


def test_too_few_nodes_leave_the_run_pending_with_the_numbers() -> None:
    world = World(nodes=("node-1",))
    world.submit()
    world.settle()
    status = world.status()
    assert status["phase"] == "Pending"
    assert "needs at least 2 nodes with 1 free device each" in status["message"]
    assert world.condition("Planned") == "False"
    assert world.of_kind("Job") == []
    assert world.reconciler.waiting == (Key("team", "tiny"),)


def test_a_pending_run_starts_when_a_node_comes() -> None:
    world = World(nodes=("node-1",))
    world.submit()
    world.settle()
    world.put(node_body("node-2"))
    world.settle()
    assert world.status()["phase"] == "Starting"
    assert world.reconciler.waiting == ()


def test_an_impossible_degree_fails_with_its_path_and_no_pods() -> None:
    world = World()
    world.submit(parallelism={"tensor": 3})
    world.settle()
    assert world.status()["phase"] == "Failed"
    assert "spec.parallelism.tensor" in world.status()["message"]
    assert world.condition("Stalled") == "True"
    assert world.of_kind("Job") == []
    assert [event["type"] for event in world.events] == ["Warning"]


def test_an_invalid_spec_fails_once_and_may_be_mended() -> None:
    world = World()
    world.submit(training={"batchSize": 0})
    world.settle()
    assert "spec.training.batchSize" in world.status()["message"]
    writes = len(world.writes)
    world.settle()
    assert len(world.writes) == writes
    world.edit(training={"batchSize": 8})
    world.settle()
    assert world.status()["phase"] == "Starting"
    assert "completionTime" not in world.status()


def test_a_missing_claim_is_named_and_waited_for() -> None:
    world = World()
    claim = world.objects.pop(("PersistentVolumeClaim", "team", "data"))
    world.submit()
    world.settle()
    status = world.status()
    assert status["phase"] == "Pending"
    assert "there is no PersistentVolumeClaim 'data'" in status["message"]
    world.put(claim)
    world.settle()
    assert world.status()["phase"] == "Starting"


def test_a_claim_that_stays_missing_ends_the_run() -> None:
    world = World()
    world.objects.pop(("PersistentVolumeClaim", "team", "data"))
    world.submit()
    assert "no PersistentVolumeClaim" in world.live_until("Failed", seconds=62)["message"]


@pytest.mark.parametrize(
    ("data", "told"),
    [(None, "there is no ConfigMap 'code'"), ({"other.py": ""}, "'code' has no 'train.py'")],
)
def test_a_missing_script_is_named(data: dict[str, str] | None, told: str) -> None:
    world = World()
    if data is not None:
        metadata = {"name": "code", "namespace": "team"}
        world.put({"kind": "ConfigMap", "metadata": metadata, "data": data})
    world.submit(trainer={"script": {"configMap": {"name": "code"}}})
    world.settle()
    assert told in world.status()["message"]


def test_children_of_an_earlier_run_of_the_name_are_waited_out() -> None:
    world = World()
    labels = names.run_labels("tiny", "the-old-uid")
    metadata = {"name": "tiny-1", "namespace": "team", "labels": labels}
    old = world.put({"kind": "Job", "metadata": metadata, "spec": {}})
    world.submit()
    world.settle()
    assert world.status()["phase"] == "Pending"
    assert "Job/tiny-1 of an earlier run" in world.status()["message"]
    assert not any(write.startswith(("delete", "apply")) for write in world.writes)
    del world.objects["Job", "team", old["metadata"]["name"]]
    world.settle()
    assert world.status()["phase"] == "Starting"


def test_a_refusal_of_the_apiserver_is_told_and_tried_again() -> None:
    world = World()
    world.refusals["Job"] = "exceeded quota: pods"
    world.submit()
    assert world.reconcile() == 30.0
    assert world.status()["phase"] == "Pending"
    assert "exceeded quota: pods" in world.status()["message"]
    writes = len(world.writes)
    world.reconcile()
    assert not any("status" in write for write in world.writes[writes:])
    world.refusals.clear()
    world.settle()
    assert world.status()["phase"] == "Starting"


def test_a_frozen_plan_is_not_written_again() -> None:
    world = World()
    world.submit()
    world.settle()
    plan = world.of_kind("ConfigMap")[0]
    plan["data"]["run.json"] = "of another version"
    del world.objects["Job", "team", "tiny-1"]
    world.settle()
    assert world.status()["attempt"] == 2
    assert world.of_kind("ConfigMap")[0]["data"]["run.json"] == "of another version"


def test_a_status_that_changed_meanwhile_is_not_overwritten() -> None:
    world = World()
    body = world.submit()
    world.settle()
    stale = world.objects[names.KIND, "team", "tiny"]["metadata"]["resourceVersion"]
    fresh = asyncio.run(world.get(names.KIND, "team", "tiny"))
    assert fresh is not None
    world.touch(body)
    fresh["metadata"]["resourceVersion"] = stale
    world.edit(runPolicy={"suspend": True})
    assert world.reconcile() in (0.0, 5.0)


def test_a_queueing_system_that_suspends_the_job_makes_the_run_queued() -> None:
    world = World()
    world.submit()
    world.settle()
    world.objects["Job", "team", "tiny-1"]["spec"]["suspend"] = True
    world.settle()
    assert world.status()["phase"] == "Queued"
    del world.objects["Job", "team", "tiny-1"]["spec"]["suspend"]
    assert world.live_until("Succeeded")["attempt"] == 1


def pod_status(world: World, index: int, **status: object) -> None:
    pod = world.objects["Pod", "team", f"tiny-1-{index}-x"]
    pod["spec"]["nodeName"] = "node-1"
    pod["status"] = {"phase": "Pending", "startTime": "x", **status}


def waiting(reason: str) -> list[dict[str, object]]:
    state = {"waiting": {"reason": reason, "message": "no such image"}}
    return [{"name": names.CONTAINER, "state": state}]


def test_an_image_that_cannot_be_pulled_is_named_and_then_ends_the_run() -> None:
    world = World()
    world.submit()
    world.settle()
    world.tick()
    pod_status(world, 0, containerStatuses=waiting("ImagePullBackOff"))
    world.settle()
    assert "ImagePullBackOff: no such image" in world.status()["message"]
    assert world.status()["phase"] == "Starting"
    for _ in range(3):
        world.now += 41
        world.settle()
    assert world.status()["phase"] == "Failed"
    assert world.status()["failure"]["reason"] == "ContainerNotCreated"
    assert "spec.trainer.image" in world.status()["message"]


def test_an_invalid_image_name_ends_the_run_at_once() -> None:
    world = World()
    world.submit()
    world.settle()
    world.tick()
    pod_status(world, 1, containerStatuses=waiting("InvalidImageName"))
    world.settle()
    assert world.status()["phase"] == "Failed"


def test_a_quota_that_keeps_pods_from_being_made_is_named() -> None:
    world = World()
    world.submit()
    world.settle()
    uid = world.objects["Job", "team", "tiny-1"]["metadata"]["uid"]
    world.put(
        {
            "kind": "Event",
            "metadata": {"name": "e", "namespace": "team"},
            "involvedObject": {"uid": uid},
            "reason": "FailedCreate",
            "message": "exceeded quota: compute, requested: cpu=2",
        }
    )
    world.settle()
    assert "exceeded quota" not in world.status()["message"]
    world.now += 4
    world.settle()
    status = world.status()
    assert status["phase"] == "Starting"
    assert status["message"] == "no pods: exceeded quota: compute, requested: cpu=2"


def test_two_runs_never_plan_on_the_same_nodes() -> None:
    world = World()
    for name in ("one", "two"):
        world.submit(name, resources={"nodes": {"min": 2}, "processesPerNode": 2})
        world.settle(name)
    assert world.status("one")["phase"] == "Starting"
    assert world.status("two")["phase"] == "Pending"


def test_events_tell_the_run_they_belong_to() -> None:
    world = World()
    uid = world.submit()["metadata"]["uid"]
    world.live_until("Succeeded")
    for event in world.events:
        assert event["involvedObject"]["uid"] == uid
        assert event["metadata"]["name"].startswith("tiny.")
    assert len({event["metadata"]["name"] for event in world.events}) == len(world.events)
