"""What a waiting run says: what it needs, what is free, and how many wait before it."""

from __future__ import annotations

import pytest

from qwenft_operator.nodes import Capacity, capacity
from qwenft_operator.render.volumes import volumes
from qwenft_operator.run import Settings
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec
from simulated import World, node_body
from simulated.builders import spec_mapping


def free(*nodes: dict[str, object]) -> str:
    spec = FinetuneSpec.from_mapping(spec_mapping())
    return capacity(spec.resources, nodes, ()).free


def test_what_is_free_is_counted_by_size() -> None:
    small = {"cpu": "0", "memory": "1Gi"}
    assert free(node_body("a"), node_body("b"), node_body("c", allocatable=small)) == "2×1 CPU"
    assert free(node_body("a", allocatable=small)) == "nothing"
    assert Capacity().free == "nothing"


def test_a_waiting_run_says_what_it_needs_and_what_is_free() -> None:
    world = World(nodes=("node-1",))
    world.submit()
    world.settle()
    assert world.status()["phase"] == "Pending"
    assert world.status()["message"].startswith("needs 2×1, free: 1×1 CPU; ")
    assert "ahead" not in world.status()["message"]


def test_a_waiting_run_says_how_many_wait_for_longer() -> None:
    world = World(nodes=("node-1",))
    for name in ("first", "second", "third"):
        world.submit(name)
        world.settle(name)
        world.now += 5.0
    told = [world.status(name)["message"] for name in ("first", "second", "third")]
    assert "ahead" not in told[0]
    assert "free: 1×1 CPU; 1 run ahead, first first; " in told[1]
    assert "free: 1×1 CPU; 2 runs ahead, first first; " in told[2]


@pytest.mark.parametrize("policy", [{"suspend": True}, {"managedBy": "example.com/other"}])
def test_runs_that_do_not_want_nodes_are_not_ahead(policy: dict[str, object]) -> None:
    world = World(nodes=("node-1",))
    world.submit("first", runPolicy=policy)
    world.now += 5.0
    world.submit()
    world.settle()
    assert "ahead" not in world.status()["message"]


@pytest.mark.parametrize(
    ("processes", "on_cpu", "memory", "size"),
    [
        (8, False, None, "16Gi"),
        (1, False, None, "2Gi"),
        (1, True, None, "1Gi"),
        (5, True, None, "2560Mi"),
        (4, True, "1Gi", "512Mi"),
        (4, True, "64Mi", "64Mi"),
    ],
)
def test_shared_memory_grows_with_the_processes_and_leaves_half_of_the_limit(
    processes: int, *, on_cpu: bool, memory: str | None, size: str
) -> None:
    limit = {} if memory is None else {"memoryPerNode": memory}
    spec = FinetuneSpec.from_mapping(spec_mapping(resources=limit))
    plan = Plan(
        world_size=processes, nodes=1, processes_per_node=processes, pp=1,
        dp_replicate=processes, dp_shard=1, tp=1, micro_batch_size=1,
        gradient_accumulation_steps=1, global_batch_size=processes, sequence_length=64,
    )  # fmt: skip
    found = volumes(spec, plan, "tiny", settings=Settings(), on_cpu=on_cpu)
    (shared,) = [item for item in found if item["name"] == "shm"]
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": size}
