"""Node and Pod objects become an inventory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_operator import claims as counted
from qwenft_operator.accelerators import ANNOTATION_NETWORK
from qwenft_operator.claims import requests_of
from qwenft_operator.fabrics import Networks
from qwenft_operator.nodes import Capacity, capacity
from qwenft_operator.quantities import amount
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import plan
from qwenft_plan.spec import FinetuneSpec
from simulated import node_body
from simulated.builders import spec_mapping

H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}
GPU_NODE = {"cpu": "96", "memory": "1Ti", "nvidia.com/gpu": "8"}


def spec_of(**resources: Any) -> FinetuneSpec:
    base = {"nodes": {"min": 1}, "processesPerNode": None}
    merged = {k: v for k, v in (base | resources).items() if v is not None}
    return FinetuneSpec.from_mapping(spec_mapping(resources=None) | {"resources": merged})


def pod(node: str | None, **requests: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"resources": {"requests": requests}}]}
    if node:
        spec["nodeName"] = node
    return {"metadata": {"name": "p"}, "spec": spec}


def devices(found: Capacity) -> dict[str, int]:
    return {offer.shape.name: offer.shape.devices for offer in found.offers}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2.0),
        ("1900m", 1.9),
        ("16Gi", 16 * 2**30),
        ("500M", 5e8),
        ("1e3", 1000.0),
        (8, 8.0),
        ("0.5", 0.5),
        ("much", 0.0),
        ("1.2.3", 0.0),
        ("7Qi", 0.0),
    ],
)
def test_quantities(text: object, value: float) -> None:
    assert amount(text) == pytest.approx(value)


def test_a_gpu_node_offers_its_product_and_memory() -> None:
    found = capacity(
        spec_of(gpusPerNode=8).resources, [node_body("g", allocatable=GPU_NODE, labels=H100)], []
    )
    (offer,) = found.offers
    assert offer.resource == "nvidia.com/gpu"
    assert offer.shape.device.vendor == "nvidia"
    assert offer.shape.device_memory_bytes == 81559 * 2**20


def test_an_amd_node_is_read_by_its_own_labels() -> None:
    labels = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}
    node = node_body("a", allocatable={"amd.com/gpu": "8"}, labels=labels)
    (offer,) = capacity(spec_of(gpusPerNode=8).resources, [node], []).offers
    assert (offer.resource, offer.shape.devices) == ("amd.com/gpu", 8)
    assert offer.shape.device.vendor == "amd"


def test_devices_in_use_are_not_free() -> None:
    nodes = [node_body(name, allocatable=GPU_NODE, labels=H100) for name in ("a", "b")]
    found = capacity(spec_of(gpusPerNode=8).resources, nodes, [pod("b", **{"nvidia.com/gpu": "3"})])
    assert devices(found) == {"a": 8, "b": 5}


def test_unbound_and_promised_pods_hold_their_place() -> None:
    nodes = [node_body(name, allocatable=GPU_NODE, labels=H100) for name in ("a", "b")]
    wanted = {"nvidia.com/gpu": 8.0}
    unbound = pod(None, **{"nvidia.com/gpu": "8"})
    assert devices(capacity(spec_of().resources, nodes, [unbound])) == {"a": 0, "b": 8}
    assert devices(capacity(spec_of().resources, nodes, [], [wanted, wanted])) == {"a": 0, "b": 0}


def test_a_pod_that_fits_nowhere_holds_nothing() -> None:
    nodes = [node_body("a", allocatable=GPU_NODE, labels=H100)]
    found = capacity(spec_of().resources, nodes, [pod(None, **{"nvidia.com/gpu": "16"})])
    assert devices(found) == {"a": 8}


MINE = {"pool": "mine"}
TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (node_body("n", labels=MINE, ready=False), "not ready"),
        (node_body("n", labels=MINE, unschedulable=True), "cordoned"),
        (node_body("n", labels=MINE, taints=(TAINT,)), "taint gpu=yes:NoSchedule is not tolerated"),
        (node_body("n", labels={"pool": "other"}), "nodeSelector wants pool=mine"),
    ],
)
def test_nodes_that_cannot_be_used_are_left_out_with_the_reason(
    node: dict[str, Any], reason: str
) -> None:
    found = capacity(spec_of(nodeSelector=MINE).resources, [node], [])
    assert found.offers == ()
    assert found.remark == f"left out: n ({reason})"


def test_many_nodes_left_out_for_one_reason_are_counted() -> None:
    nodes = [node_body(f"n{index}", ready=False) for index in range(9)]
    nodes += [node_body("m", unschedulable=True)]
    found = capacity(spec_of().resources, nodes, [])
    assert found.remark == "left out: n0, n1, n2 and 6 more (not ready); m (cordoned)"


def test_a_run_on_gpus_is_not_told_of_nodes_without_any() -> None:
    nodes = [node_body("c", ready=False), node_body("g", ready=False, allocatable=GPU_NODE)]
    assert capacity(spec_of(gpusPerNode=1).resources, nodes, []).remark == "left out: g (not ready)"


def test_where_all_nodes_can_be_used_there_is_nothing_to_remark() -> None:
    assert capacity(spec_of().resources, [node_body("n")], []).remark == ""


@pytest.mark.parametrize(
    ("toleration", "usable"),
    [
        ({"key": "gpu", "value": "yes", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "cpu", "operator": "Exists"}, False),
    ],
)
def test_taints_are_tolerated_as_the_scheduler_does(
    toleration: dict[str, str], *, usable: bool
) -> None:
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    node = node_body("n", taints=(taint,))
    resources = spec_of(processesPerNode=1, tolerations=[toleration]).resources
    assert bool(capacity(resources, [node], []).offers) is usable


def test_a_preference_is_no_obstacle() -> None:
    node = node_body("n", taints=({"key": "x", "effect": "PreferNoSchedule"},))
    assert len(capacity(spec_of(processesPerNode=1).resources, [node], []).offers) == 1


def test_cpu_processes_share_cores_and_memory() -> None:
    node = node_body("n", allocatable={"cpu": "8", "memory": "16Gi"})
    (offer,) = capacity(spec_of(processesPerNode=2, cpusPerProcess=3).resources, [node], []).offers
    assert offer.shape.is_cpu
    assert offer.shape.devices == 2
    assert offer.shape.device_memory_bytes == 8 * 2**30
    assert offer.shape.cpus_per_process == 3


def test_fewer_processes_fit_where_cores_are_taken() -> None:
    node = node_body("n", allocatable={"cpu": "4", "memory": "8Gi"})
    busy = [pod("n", cpu="1500m")]
    resources = spec_of(processesPerNode=4).resources
    assert devices(capacity(resources, [node], busy)) == {"n": 2}


def test_memory_that_is_asked_for_and_not_there_leaves_no_process() -> None:
    node = node_body("n", allocatable={"cpu": "4", "memory": "8Gi"})
    resources = spec_of(processesPerNode=2, memoryPerNode="9Gi").resources
    assert devices(capacity(resources, [node], [])) == {"n": 0}


def test_cpu_runs_do_not_take_gpu_nodes_for_their_gpus() -> None:
    node = node_body("g", allocatable=GPU_NODE, labels=H100)
    (offer,) = capacity(spec_of(processesPerNode=2).resources, [node], []).offers
    assert (offer.shape.is_cpu, offer.resource) == (True, "")


def test_gpu_runs_do_not_see_cpu_nodes() -> None:
    assert capacity(spec_of(gpusPerNode=1).resources, [node_body("n")], []).offers == ()


def test_an_unknown_product_is_named_not_guessed() -> None:
    labels = {"nvidia.com/gpu.product": "Quadro-Imaginary"}
    node = node_body("n", allocatable=GPU_NODE, labels=labels)
    found = capacity(spec_of(gpusPerNode=1).resources, [node], [])
    assert found.offers == ()
    told = "left out: n (accelerator 'Quadro-Imaginary' is not in the planner's table)"
    assert found.remark == told


def test_requests_count_as_the_scheduler_counts_them() -> None:
    spec = {
        "containers": [
            {"resources": {"requests": {"cpu": "1"}}},
            {"resources": {"limits": {"cpu": "2", "nvidia.com/gpu": "1"}}},
        ],
        "initContainers": [
            {"resources": {"requests": {"cpu": "5"}}},
            {"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
        ],
        "overhead": {"cpu": "250m"},
    }
    assert requests_of(spec) == {"cpu": 5.25, "nvidia.com/gpu": 1.0}


def test_networks_reach_the_planner_from_the_settings_and_the_slowest_node_counts() -> None:
    labels = H100 | {"node.kubernetes.io/instance-type": "p5.48xlarge"}
    nodes = [
        node_body("a", allocatable=GPU_NODE, labels=labels),
        node_body("b", allocatable=GPU_NODE, labels=labels, annotations={ANNOTATION_NETWORK: "80"}),
    ]
    found = capacity(
        spec_of(gpusPerNode=8).resources, nodes, [], networks=Networks(rates={"p5.48xlarge": 2e10})
    )
    assert [offer.shape.network_bytes_per_second for offer in found.offers] == [2e10, 1e10]
    (group,) = found.inventory.groups()
    assert group.device.network == 1e10
    assert group.network_source == f"annotation {ANNOTATION_NETWORK}"


def test_the_plan_names_the_assumed_network_and_who_says_so() -> None:
    labels = H100 | {"node.kubernetes.io/instance-type": "p5.48xlarge"}
    offered = GPU_NODE | {"vpc.amazonaws.com/efa": "32"}
    nodes = [node_body(name, allocatable=offered, labels=labels) for name in ("a", "b")]
    spec = spec_of(gpusPerNode=8, nodes={"min": 2})
    found = capacity(spec.resources, nodes, [])
    planned = plan(spec=spec, model=ModelShape.for_spec(spec.model), inventory=found.inventory)
    told = "assumes 400 GB/s between nodes (3,200 Gbit/s, instance type p5.48xlarge, over EFA)"
    assert told in planned.reason


def test_an_annotation_that_is_no_number_is_remarked_and_the_node_counts() -> None:
    node = node_body(
        "a", allocatable=GPU_NODE, labels=H100, annotations={ANNOTATION_NETWORK: "fast"}
    )
    found = capacity(spec_of(gpusPerNode=8).resources, [node], [])
    assert devices(found) == {"a": 8}
    assert f"annotation {ANNOTATION_NETWORK} is 'fast'" in found.remark


def test_groups_of_products_are_compared_and_the_best_wins_whatever_the_order() -> None:
    l4 = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}
    nodes = [
        node_body("slow", allocatable=GPU_NODE, labels=l4),
        node_body("fast", allocatable=GPU_NODE, labels=H100),
    ]
    spec = spec_of(gpusPerNode=8)
    model = ModelShape.for_spec(spec.model)
    for order in (nodes, nodes[::-1]):
        found = capacity(spec.resources, order, [])
        planned = plan(spec=spec, model=model, inventory=found.inventory)
        assert planned.chosen.group.device.name == "H100-80GB"
        assert found.placement(spec, planned).selector == dict([next(iter(H100.items()))])


def test_the_placement_keeps_a_plan_on_its_product() -> None:
    a100 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu.memory": "81920"}
    nodes = [
        node_body("h", allocatable=GPU_NODE, labels=H100),
        node_body("a", allocatable=GPU_NODE, labels=a100),
    ]
    spec = spec_of(gpusPerNode=8, nodeSelector={})
    found = capacity(spec.resources, nodes, [])
    planned = plan(spec=spec, model=ModelShape.for_spec(spec.model), inventory=found.inventory)
    placement = found.placement(spec, planned)
    product = placement.selector["nvidia.com/gpu.product"]
    assert product in {H100["nvidia.com/gpu.product"], a100["nvidia.com/gpu.product"]}
    assert placement.resource == "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("sizes", "wanted", "apart"),
    [
        ((8, 8), 8, False),
        ((7, 7), 4, False),
        ((8, 8), 4, True),
        ((8, 16), 8, True),  # two would fit on the larger node
        ((15, 8), 8, False),
    ],
)
def test_pods_are_kept_apart_only_where_two_could_meet_on_a_node(
    sizes: tuple[int, ...], wanted: int, *, apart: bool
) -> None:
    nodes = [
        node_body(f"h{index}", allocatable=GPU_NODE | {"nvidia.com/gpu": str(size)}, labels=H100)
        for index, size in enumerate(sizes)
    ]
    spec = spec_of(gpusPerNode=wanted, nodes={"min": 2, "max": 2})
    found = capacity(spec.resources, nodes, [])
    planned = plan(spec=spec, model=ModelShape.for_spec(spec.model), inventory=found.inventory)
    assert planned.chosen.per_node == wanted
    fields = found.placement(spec, planned).to_pod("uid-1")
    assert ("podAntiAffinity" in fields.get("affinity", {})) is apart
    assert apart or "affinity" not in fields


def test_devices_that_others_hold_for_now_count_when_pods_might_meet() -> None:
    node = node_body("h", allocatable=GPU_NODE | {"nvidia.com/gpu": "16"}, labels=H100)
    other = pod("h", **{"nvidia.com/gpu": "8"})
    spec = spec_of(gpusPerNode=8)
    found = capacity(spec.resources, [node], [other])
    planned = plan(spec=spec, model=ModelShape.for_spec(spec.model), inventory=found.inventory)
    assert devices(found) == {"h": 8}
    assert "podAntiAffinity" in found.placement(spec, planned).to_pod("uid-1")["affinity"]


def first_fit(nodes: list[int], claims: list[tuple[int, int]]) -> dict[str, int]:
    """Return the cores that are left if each claim takes the first node with room for it."""
    left = {f"node-{number}": {"cpu": cores, "memory": 8} for number, cores in enumerate(nodes)}
    for cpu, memory in claims:
        for name in sorted(left):
            if left[name]["cpu"] >= cpu and left[name]["memory"] >= memory:
                left[name]["cpu"] -= cpu
                left[name]["memory"] -= memory
                break
    return {name: rest["cpu"] for name, rest in left.items()}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=30),
)
def test_pods_without_a_node_hold_the_first_with_room(
    nodes: list[int], claims: list[tuple[int, int]]
) -> None:
    """However many they are and whatever their order, each kind of them looks at a node once."""
    bodies = [
        node_body(f"node-{number}", allocatable={"cpu": str(cores), "memory": "8"})
        for number, cores in enumerate(nodes)
    ]
    unbound = [pod(None, cpu=str(cpu), memory=str(memory)) for cpu, memory in claims]
    found = capacity(spec_of(processesPerNode=9).resources, bodies, unbound)
    assert devices(found) == first_fit(nodes, claims)


def test_counting_many_pods_of_few_kinds_does_not_look_at_every_node_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    has_room = counted._has_room

    def counting(rest: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
        nonlocal looks
        looks += 1
        return has_room(rest, wanted)

    monkeypatch.setattr(counted, "_has_room", counting)
    bodies = [node_body(f"node-{number:03}") for number in range(200)]
    unbound = [pod(None, cpu=str(1 + number % 2)) for number in range(400)]
    capacity(spec_of(processesPerNode=1).resources, bodies, unbound)
    assert looks <= 400 + 2 * 200, "one look a pod, and one pass over the nodes a kind"
