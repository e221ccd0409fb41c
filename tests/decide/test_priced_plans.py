"""What the operator's settings change in a plan: costs, networks, and what nothing-fits says."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from simulated import World, node_body
from simulated.world import HOME

H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}
INSTANCE = {"node.kubernetes.io/instance-type": "p5.48xlarge"}
EIGHT = {"cpu": "96", "memory": "1Ti", "nvidia.com/gpu": "8"}
REQUEST: dict[str, Any] = {
    "model": {"name": "Qwen/Qwen1.5-7B"},
    "training": {"batchSize": 64, "sequenceLength": 2048, "precision": "bf16"},
    "resources": None,
}


def gpu_world(
    planner: dict[str, str] | None = None, *, nodes: int = 2, labels: dict[str, str] | None = None
) -> World:
    """Return a cluster of H100 nodes whose operator has these settings."""
    world = World(nodes=(), learns=True)
    world.reconciler = world.new_process()
    for index in range(nodes):
        world.put(node_body(f"gpu-{index}", allocatable=EIGHT, labels=H100 | (labels or {})))
    if planner is not None:
        metadata = {"name": "qwenft-planner", "namespace": HOME}
        world.put({"kind": "ConfigMap", "metadata": metadata, "data": planner})
    return world


def submitted(world: World, **sections: Any) -> dict[str, Any]:
    wanted = REQUEST | {"resources": {"gpusPerNode": 8, "nodes": {"min": 2}}} | sections
    body = world.submit()
    body["spec"] = {key: value for key, value in (body["spec"] | wanted).items() if value}
    world.settle()
    return world.status()


def test_device_hours_are_told_without_a_price() -> None:
    plan = submitted(gpu_world())["plan"]
    assert set(plan["cost"]) == {"deviceHours"}
    tokens = plan["predicted"]["tokensPerSecond"]
    assert plan["cost"]["deviceHours"] == pytest.approx(1e9 / tokens * 16 / 3600, rel=1e-3)
    assert "GPU-hours" not in plan["reason"]


def test_a_price_reaches_winner_losers_and_reason() -> None:
    settings = {"prices": json.dumps({"H100": 2.5}), "currency": "USD"}
    plan = submitted(gpu_world(settings))["plan"]
    cost = plan["cost"]
    assert cost["amount"] == pytest.approx(2.5 * cost["deviceHours"], rel=1e-4)
    assert cost["currency"] == "USD"
    assert f" {cost['amount']:,.2f}"[:4] in plan["reason"]
    assert "USD." in plan["reason"]
    priced = [item["cost"] for item in plan["alternatives"] if "cost" in item]
    assert len(priced) == 5
    assert all(item["amount"] > 0 and item["currency"] == "USD" for item in priced)


def test_a_changed_price_counts_for_the_next_plan_without_a_restart() -> None:
    world = gpu_world({"prices": json.dumps({"H100": 2.0})}, nodes=4)
    first = submitted(world)["plan"]["cost"]
    world.objects["ConfigMap", HOME, "qwenft-planner"]["data"]["prices"] = '{"H100": 4.0}'
    body = world.submit("second")
    body["spec"] = dict(world.objects["QwenFineTune", "team", "tiny"]["spec"])
    body["spec"]["resources"] = {"gpusPerNode": 8, "nodes": {"min": 2, "max": 2}}
    world.live_until("Succeeded", seconds=60)
    world.settle("second")
    second = world.status("second")["plan"]["cost"]
    assert second["amount"] / second["deviceHours"] == pytest.approx(4.0, rel=1e-4)
    assert first["amount"] / first["deviceHours"] == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize(
    ("labels", "networks", "told"),
    [
        ({}, {}, "assumes 12.5 GB/s between nodes (100 Gbit/s, assumed of a pod's own interface"),
        (INSTANCE, {}, "(100 Gbit/s, assumed of a pod's own interface, over TCP)"),
        (INSTANCE, {"p5.48xlarge": 100}, "assumes 12.5 GB/s between nodes (100 Gbit/s, set for p5"),
        (
            {},
            {"H100-80GB": 200},
            "assumes 25 GB/s between nodes (200 Gbit/s, set for H100-80GB, over TCP)",
        ),
    ],
)
def test_the_assumed_network_and_its_source_are_in_the_status(
    labels: dict[str, str], networks: dict[str, float], told: str
) -> None:
    settings = {"networkGbps": json.dumps(networks)}
    assert told in submitted(gpu_world(settings, labels=labels))["plan"]["reason"]


def test_a_slower_network_makes_a_slower_plan() -> None:
    fast = submitted(gpu_world())["plan"]["predicted"]["tokensPerSecond"]
    slow = gpu_world({"networkGbps": '{"H100": 10}'})
    assert submitted(slow)["plan"]["predicted"]["tokensPerSecond"] < 0.8 * fast


def test_settings_that_cannot_be_read_are_warned_of_and_the_run_starts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        status = submitted(gpu_world({"prices": "{broken", "networkGbps": '{"H100": "fast"}'}))
    assert status["phase"] == "Starting"
    assert any("prices is no JSON object" in text for text in caplog.messages)
    assert any("'fast' is no Gbit/s" in text for text in caplog.messages)


def planned_condition(status: dict[str, Any]) -> dict[str, Any]:
    return next(item for item in status["conditions"] if item["type"] == "Planned")


def test_when_nothing_fits_the_condition_has_the_gap_and_the_smallest_change() -> None:
    world = gpu_world(nodes=1)
    model = {"name": "Qwen/Qwen1.5-72B"}
    status = submitted(world, model=model, resources={"nodes": {"max": 1}})
    condition = planned_condition(status)
    assert (status["phase"], condition["status"], condition["reason"]) == (
        "Pending", "False", "Infeasible",
    )  # fmt: skip
    message = condition["message"]
    assert "GiB too much" in message
    assert "what would fit: " in message
    assert "LoRA" in message
    assert "×8 H100-80GB" in message.split("what would fit: ")[1]
    assert world.of_kind("Job") == []


@pytest.mark.parametrize(
    ("labels", "allocatable", "told"),
    [
        (
            {"nvidia.com/gpu.sharing-strategy": "time-slicing", "nvidia.com/gpu.replicas": "4"},
            EIGHT,
            "left out: odd (GPUs are shared (time-slicing, 4 replicas of each)",
        ),
        (
            {"nvidia.com/mig.strategy": "mixed"},
            {"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "56"},
            "left out: odd (GPUs are cut into slices (mig-1g.10gb)",
        ),
    ],
)
def test_when_nothing_fits_the_condition_names_the_nodes_left_out_and_why(
    labels: dict[str, str], allocatable: dict[str, str], told: str
) -> None:
    world = gpu_world(nodes=0)
    world.put(node_body("odd", allocatable=allocatable, labels=H100 | labels))
    status = submitted(world, resources={"gpusPerNode": 8})
    assert status["phase"] == "Pending"
    assert told in planned_condition(status)["message"]


def test_without_a_namespace_of_its_own_an_operator_reads_no_settings() -> None:
    world = gpu_world({"prices": json.dumps({"H100": 2.5})})
    world.learns = False
    world.reconciler = world.new_process()
    assert set(submitted(world)["plan"]["cost"]) == {"deviceHours"}
