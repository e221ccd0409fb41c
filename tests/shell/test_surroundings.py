"""What surrounds a run is read with few questions: children, nodes, capacity, named objects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from qwenft_operator import names
from qwenft_operator.clock import parse_time
from qwenft_operator.observe import Children
from qwenft_operator.outlook import read_view
from qwenft_operator.run import Run
from qwenft_operator.surroundings import (
    creation_trouble,
    list_children,
    lost_nodes,
    obstacles,
)
from simulated import World, node_body, run_body

LATER = 4e9
"""Long after anything began."""


def run_in(world: World, name: str = "tiny") -> Run:
    return Run.from_object(world.objects[names.KIND, "team", name])


def ask(call: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await call()

    return asyncio.run(main())


def free(world: World, name: str) -> dict[str, int]:
    found = ask(lambda: read_view(world, "")).capacity_for(run_in(world, name))
    return {offer.shape.name: offer.shape.devices for offer in found.offers}


def training_world() -> World:
    """Return a world in which one run has both nodes' first core and another run looks on."""
    world = World()
    world.program(lambda *_: None)
    world.submit()
    world.settle()
    for _ in range(3):
        world.tick()
    world.submit("other", resources={"nodes": {"min": 2}, "processesPerNode": 2})
    return world


def test_children_are_found_by_the_run_s_name() -> None:
    world = training_world()
    children = ask(lambda: list_children(world, "team", "tiny"))
    assert len(children.jobs) == len(children.config_maps) == 1
    assert len(children.pods) == 2
    assert ask(lambda: list_children(world, "team", "other")).jobs == ()
    assert ask(lambda: list_children(world, "elsewhere", "tiny")).pods == ()


def test_no_node_is_asked_for_while_all_pods_are_well() -> None:
    assert nodes_asked_for(training_world(), age=LATER) == 0


def test_a_node_that_is_not_ready_is_lost() -> None:
    world = training_world()
    world.lose("node-2")
    world._controllers.step()
    children = ask(lambda: list_children(world, "team", "tiny"))
    assert ask(lambda: lost_nodes(world, children, LATER)) == {"node-2"}


def test_a_node_that_is_gone_is_lost() -> None:
    world = training_world()
    pod = world.objects["Pod", "team", "tiny-1-0-x"]
    pod["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    del world.objects["Node", "", pod["spec"]["nodeName"]]
    children = ask(lambda: list_children(world, "team", "tiny"))
    assert ask(lambda: lost_nodes(world, children, LATER)) == {pod["spec"]["nodeName"]}


def test_a_pod_that_is_not_ready_on_a_ready_node_loses_nothing() -> None:
    world = training_world()
    world.objects["Pod", "team", "tiny-1-0-x"]["status"]["conditions"] = []
    children = ask(lambda: list_children(world, "team", "tiny"))
    assert ask(lambda: lost_nodes(world, children, LATER)) == frozenset()


class NoJobs(World):
    """A cluster whose lists of Jobs are all from before the run."""

    async def list(
        self, kind: str, namespace: str = "", **words: Any
    ) -> tuple[Mapping[str, Any], ...]:
        """List, but no Jobs."""
        return () if kind == "Job" else await super().list(kind, namespace, **words)


@pytest.mark.parametrize(
    ("attempt", "owner", "found"),
    [(1, names.FIELD_MANAGER, ["tiny-1"]), (0, names.FIELD_MANAGER, []), (1, "somebody", [])],
)
def test_a_job_that_lists_leave_out_is_asked_for_as_an_object(
    attempt: int, owner: str, found: list[str]
) -> None:
    """One of another's that has the name is not the run's, as it is not in a list of its labels."""
    world = NoJobs()
    labels = {names.LABEL_MANAGED_BY: owner, names.LABEL_RUN: "tiny"}
    world.put(
        {"kind": "Job", "metadata": {"name": "tiny-1", "namespace": "team", "labels": labels}}
    )
    children = ask(lambda: list_children(world, "team", "tiny", attempt=attempt))
    assert [job["metadata"]["name"] for job in children.jobs] == found


@pytest.mark.parametrize(
    ("mark", "found"),
    [
        ({}, ["tiny-1"]),
        ({"deletionTimestamp": "2027-01-15T08:00:00Z"}, []),
        ({"labels": {names.LABEL_ATTEMPT: "first"}}, []),
        ({"labels": None}, []),
    ],
)
def test_the_job_of_pods_that_stay_is_asked_for_too(mark: dict[str, Any], found: list[str]) -> None:
    """The status does not tell of an attempt yet, and another operator may have made its Job."""
    world = NoJobs()
    labels = {names.LABEL_MANAGED_BY: names.FIELD_MANAGER, names.LABEL_RUN: "tiny"}
    job = {"name": "tiny-1", "namespace": "team", "labels": labels}
    pod = job | {"name": "tiny-1-0", "labels": labels | {names.LABEL_ATTEMPT: "1"}} | mark
    world.put({"kind": "Job", "metadata": job})
    listed = {"kind": "Pod", "metadata": pod, "spec": {}}
    read = world.list

    async def with_the_pod(kind: str, *args: Any, **words: Any) -> Any:
        return (listed,) if kind == "Pod" else await read(kind, *args, **words)

    world.list = with_the_pod  # type: ignore[method-assign]
    children = ask(lambda: list_children(world, "team", "tiny", attempt=0))
    assert [job["metadata"]["name"] for job in children.jobs] == found


def nodes_asked_for(world: World, *, age: float) -> int:
    """Return how many nodes one look asks for when its pods are so old."""
    asked: list[str] = []
    get = world.get

    async def counting(kind: str, namespace: str, name: str) -> Any:
        asked.append(kind)
        return await get(kind, namespace, name)

    world.get = counting  # type: ignore[method-assign]
    children = ask(lambda: list_children(world, "team", "tiny"))
    created = parse_time(children.pods[0]["metadata"]["creationTimestamp"])
    assert created is not None
    ask(lambda: lost_nodes(world, children, created + age))
    return len(asked)


def come_up(world: World) -> None:
    """Make the run's pods such that have a node and do not run yet."""
    for pod in world.of_kind("Pod"):
        pod["status"] = {"phase": "Pending", "conditions": []}


@pytest.mark.parametrize(("age", "asked"), [(0.0, 0), (9.0, 0), (10.0, 1), (-5.0, 1)])
def test_pods_that_come_up_cost_no_look_at_their_nodes(age: float, asked: int) -> None:
    """A clock that is behind the pod's creation tells nothing: the node is asked for."""
    world = training_world()
    come_up(world)
    assert min(1, nodes_asked_for(world, age=age)) == asked


@pytest.mark.parametrize(("pods", "single", "lists"), [(20, 20, 0), (21, 0, 1)])
def test_the_nodes_of_many_pods_are_listed_at_once(pods: int, single: int, lists: int) -> None:
    world, asked, listed = World(), list[str](), list[str]()
    get, list_all = world.get, world.list

    async def getting(kind: str, namespace: str, name: str) -> Any:
        asked.append(name)
        return await get(kind, namespace, name)

    async def listing(kind: str, namespace: str = "", **words: Any) -> Any:
        listed.append(kind)
        return await list_all(kind, namespace, **words)

    for index in range(pods - 1):
        world.put(node_body(f"fake-{index}", ready=index != 7))
    world.get, world.list = getting, listing  # type: ignore[method-assign]
    wanted = [f"fake-{index}" for index in range(pods)]
    bodies = tuple(
        {"metadata": {}, "spec": {"nodeName": name}, "status": {"phase": "Running"}}
        for name in wanted
    )
    lost = ask(lambda: lost_nodes(world, Children(pods=bodies), LATER))
    assert lost == {"fake-7", wanted[-1]}, "one that is not ready, one that is gone"
    assert (len(asked), listed) == (single, ["Node"] * lists)


def test_a_young_pod_that_is_deleted_or_has_run_is_looked_into() -> None:
    world = training_world()
    come_up(world)
    world.objects["Pod", "team", "tiny-1-0-x"]["metadata"]["deletionTimestamp"] = (
        "2027-01-15T08:00:00Z"
    )
    assert nodes_asked_for(world, age=1.0) == 1
    world = training_world()
    world.objects["Pod", "team", "tiny-1-0-x"]["status"] = {"phase": "Running", "conditions": []}
    assert nodes_asked_for(world, age=1.0) == 1


def test_pods_of_other_runs_take_their_share() -> None:
    world = training_world()
    assert free(world, "other") == {"node-1": 1, "node-2": 1}


def test_pods_that_do_not_exist_yet_take_it_too() -> None:
    world = training_world()
    for pod in world.of_kind("Pod"):
        del world.objects["Pod", "team", pod["metadata"]["name"]]
    assert free(world, "other") == {"node-1": 0, "node-2": 2}, "two pods of one core, packed"


def test_a_job_that_a_queue_holds_back_takes_nothing() -> None:
    world = training_world()
    for pod in world.of_kind("Pod"):
        del world.objects["Pod", "team", pod["metadata"]["name"]]
    world.objects["Job", "team", "tiny-1"]["spec"]["suspend"] = True
    assert free(world, "other") == {"node-1": 2, "node-2": 2}


@pytest.mark.parametrize(
    ("condition", "kept"), [("Failed", True), ("FailureTarget", True), ("Complete", False)]
)
def test_a_run_between_two_attempts_keeps_its_nodes(condition: str, *, kept: bool) -> None:
    world = training_world()
    for pod in world.of_kind("Pod"):
        del world.objects["Pod", "team", pod["metadata"]["name"]]
    job = world.objects["Job", "team", "tiny-1"]
    job["status"]["conditions"] = [{"type": condition, "status": "True"}]
    expected = {"node-1": 0, "node-2": 2} if kept else {"node-1": 2, "node-2": 2}
    assert free(world, "other") == expected
    assert free(world, "tiny") == {"node-1": 1, "node-2": 1}, "its own is free to itself"


@pytest.mark.parametrize("phase", ["Suspended", "Succeeded", "Failed", "Pending"])
def test_a_run_that_stopped_keeps_nothing(phase: str) -> None:
    world = training_world()
    for pod in world.of_kind("Pod"):
        del world.objects["Pod", "team", pod["metadata"]["name"]]
    job = world.objects["Job", "team", "tiny-1"]
    job["status"]["conditions"] = [{"type": "Failed", "status": "True"}]
    world.objects[names.KIND, "team", "tiny"]["status"]["phase"] = phase
    assert free(world, "other") == {"node-1": 2, "node-2": 2}


def in_the_way(world: World, attempt: int = 1, namespace: str = "team", **spec: Any) -> Any:
    body = run_body("fresh", namespace, **spec)
    body["metadata"]["uid"] = "fresh-uid"
    return ask(lambda: obstacles(world, Run.from_object(body), attempt))


def test_nothing_is_missing_where_all_is_there() -> None:
    assert in_the_way(World()) == ()


def test_each_missing_claim_is_named_with_its_field() -> None:
    volume = {"persistentVolumeClaim": {"claimName": "hub"}}
    (told,) = in_the_way(World(), model={"path": "/models/x", "volume": volume})
    assert told.startswith("spec.model.volume.persistentVolumeClaim.claimName: ")
    assert "'hub'" in told


def test_a_claim_that_holds_all_is_asked_for_once() -> None:
    world = World()
    asked: list[str] = []
    get = world.get

    async def counted(kind: str, namespace: str, name: str) -> Any:
        asked.append(f"{kind}/{name}")
        return await get(kind, namespace, name)

    world.get = counted  # type: ignore[method-assign]
    in_the_way(world)
    assert len([each for each in asked if each.startswith("PersistentVolumeClaim/")]) == 1


def test_a_claim_of_another_namespace_is_none_of_ours() -> None:
    found = in_the_way(World(), namespace="elsewhere")
    assert len(found) == 3


def test_a_script_that_is_there_is_not_missing() -> None:
    world = World()
    metadata = {"name": "code", "namespace": "team"}
    world.put({"kind": "ConfigMap", "metadata": metadata, "data": {"train.py": "pass"}})
    assert in_the_way(world, trainer={"script": {"configMap": {"name": "code"}}}) == ()


@pytest.mark.parametrize(
    ("kind", "name"), [("Service", "fresh"), ("NetworkPolicy", "fresh"), ("Job", "fresh-4")]
)
def test_an_object_of_somebody_else_is_not_taken_over(kind: str, name: str) -> None:
    world = World()
    world.put({"kind": kind, "metadata": {"name": name, "namespace": "team"}})
    (told,) = in_the_way(world, attempt=4)
    assert f"there is a {kind} {name!r} that is not this run's" in told


def test_the_run_s_own_objects_are_in_nobody_s_way() -> None:
    world = World()
    labels = names.run_labels("fresh", "fresh-uid")
    world.put({"kind": "Service", "metadata": {"name": "fresh", "namespace": "team",
                                               "labels": labels}})  # fmt: skip
    assert in_the_way(world) == ()


def test_a_service_of_the_user_s_own_survives_a_run_of_its_name() -> None:
    world = World()
    own = {"kind": "Service", "metadata": {"name": "tiny", "namespace": "team"}, "spec": {"x": 1}}
    world.put(own)
    world.submit()
    world.settle()
    assert world.status()["phase"] == "Pending"
    assert "use another name" in world.status()["message"]
    assert world.objects["Service", "team", "tiny"]["spec"] == {"x": 1}
    assert world.of_kind("Job") == []


def trouble(world: World, now: float) -> str:
    children = ask(lambda: list_children(world, "team", "tiny"))
    found: str = ask(lambda: creation_trouble(world, "team", children, now))
    return found


def test_events_are_read_only_when_pods_are_missing_for_seconds() -> None:
    world = World()
    world.submit()
    world.settle()
    uid = world.objects["Job", "team", "tiny-1"]["metadata"]["uid"]
    for number, uids in enumerate((uid, "another-job")):
        world.put(
            {
                "kind": "Event",
                "metadata": {"name": f"e{number}", "namespace": "team"},
                "involvedObject": {"uid": uids},
                "message": f"refused for {uids}",
            }
        )
    assert trouble(world, world.now + 1) == ""
    assert trouble(world, world.now + 4) == f"refused for {uid}"
    world.tick()
    world.tick()
    assert len(world.of_kind("Pod")) == 2
    assert trouble(world, world.now + 9) == ""


def test_the_requests_of_a_cpu_run_are_its_cores() -> None:
    body = run_body(resources={"nodes": {"min": 1}, "processesPerNode": 1, "cpusPerProcess": 2})
    world = World(nodes=())
    world.put(node_body("big", allocatable={"cpu": "5", "memory": "8Gi"}))
    world.put(body)
    assert free(world, "tiny") == {"big": 1}
