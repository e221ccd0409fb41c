"""Labels and resources of nodes: which accelerators count, which are left out, and why."""

from __future__ import annotations

from typing import Any

import pytest

from qwenft_operator.accelerators import (
    ANNOTATION_NETWORK,
    Link,
    has_accelerators,
    link_of,
    part_of,
)
from qwenft_plan.hardware import find_device
from simulated import node_body

H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}
MI300X = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"}
EIGHT = {"cpu": "96", "nvidia.com/gpu": "8"}
INSTANCE = "node.kubernetes.io/instance-type"


def node(
    labels: dict[str, str], allocatable: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    return node_body("n", labels=labels, allocatable=allocatable or EIGHT, **more)


def refusal(labels: dict[str, str], allocatable: dict[str, str] | None = None) -> str:
    part = part_of(node(labels, allocatable))
    assert part is not None
    return part.refusal


@pytest.mark.parametrize(
    ("labels", "allocatable", "resource", "device"),
    [
        (H100, EIGHT, "nvidia.com/gpu", "H100-80GB"),
        (
            {"cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb"},
            EIGHT,
            "nvidia.com/gpu",
            "H100-80GB",
        ),
        ({"karpenter.k8s.aws/instance-gpu-name": "l40s"}, EIGHT, "nvidia.com/gpu", "L40S-48GB"),
        (MI300X, {"amd.com/gpu": "8"}, "amd.com/gpu", "MI300X-192GB"),
        (
            {"beta.amd.com/gpu.product-name": "AMD_Instinct_MI250"},
            {"amd.com/gpu": "8"},
            "amd.com/gpu",
            "MI250-64GB",
        ),
    ],
)
def test_each_vendor_and_cloud_names_its_product_by_its_own_label(
    labels: dict[str, str], allocatable: dict[str, str], resource: str, device: str
) -> None:
    part = part_of(node(labels, allocatable))
    assert part is not None
    assert (part.refusal, part.resource) == ("", resource)
    found = find_device(part.product)
    assert found is not None
    assert found.name == device
    assert part.label == (next(iter(labels)), part.product)


def test_the_vendor_s_own_label_goes_before_the_cloud_s() -> None:
    part = part_of(node({"cloud.google.com/gke-accelerator": "nvidia-l4"} | H100))
    assert part is not None
    assert part.product == "NVIDIA-H100-80GB-HBM3"
    assert part.memory == 81559 * 2**20


def test_a_node_without_accelerators_has_no_part() -> None:
    plain = node_body("n")
    assert part_of(plain) is None
    assert not has_accelerators(plain)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (
            {"nvidia.com/gpu.sharing-strategy": "time-slicing", "nvidia.com/gpu.replicas": "4"},
            "GPUs are shared (time-slicing, 4 replicas of each): a rank needs a whole one",
        ),
        (
            {"nvidia.com/gpu.sharing-strategy": "mps"},
            "GPUs are shared (mps): a rank needs a whole one",
        ),
        ({"nvidia.com/gpu.replicas": "2"}, "GPUs are shared (2 replicas of each)"),
        (
            {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-SHARED"},
            "GPUs are shared (replicated)",
        ),
        (
            {
                "cloud.google.com/gke-gpu-sharing-strategy": "time-sharing",
                "cloud.google.com/gke-max-shared-clients-per-gpu": "3",
            },
            "GPUs are shared (time-sharing, 3 replicas of each)",
        ),
    ],
)
def test_shared_gpus_are_refused_with_how_they_are_shared(
    labels: dict[str, str], told: str
) -> None:
    assert refusal(H100 | labels).startswith(told)


def test_gpus_shared_under_another_resource_are_refused_too() -> None:
    shared = {"cpu": "96", "nvidia.com/gpu.shared": "32"}
    assert has_accelerators(node(H100, shared))
    assert refusal(H100, shared).startswith("GPUs are shared")


@pytest.mark.parametrize(
    "labels",
    [
        {"nvidia.com/gpu.sharing-strategy": "none", "nvidia.com/gpu.replicas": "1"},
        {"nvidia.com/gpu.replicas": "0"},
        {"nvidia.com/gpu.replicas": "many"},
        {"nvidia.com/mig.strategy": "single", "nvidia.com/mig.capable": "true"},
    ],
)
def test_whole_gpus_are_counted_whatever_else_their_labels_say(labels: dict[str, str]) -> None:
    assert refusal(H100 | labels) == ""


MIG = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb",
       "nvidia.com/mig.strategy": "single", "nvidia.com/gpu.memory": "9728"}  # fmt: skip


def test_slices_that_pass_for_gpus_are_refused() -> None:
    told = "GPUs are cut into MIG slices (1g.10gb): a rank needs a whole one"
    assert refusal(MIG, {"nvidia.com/gpu": "56"}) == told


def test_whole_gpus_beside_slices_are_counted_and_the_slices_are_not() -> None:
    mixed = {"nvidia.com/gpu": "6", "nvidia.com/mig-3g.40gb": "4", "cpu": "96"}
    labels = H100 | {"nvidia.com/mig.strategy": "mixed"}
    part = part_of(node(labels, mixed))
    assert part is not None
    assert (part.refusal, part.resource) == ("", "nvidia.com/gpu")


@pytest.mark.parametrize(
    "allocatable",
    [
        {"nvidia.com/gpu": "0", "nvidia.com/mig-3g.40gb": "16"},
        {"nvidia.com/mig-1g.10gb": "7", "nvidia.com/mig-2g.20gb": "3"},
    ],
)
def test_a_node_of_slices_only_is_refused_and_names_them(allocatable: dict[str, str]) -> None:
    told = refusal(H100 | {"nvidia.com/mig.strategy": "mixed"}, allocatable)
    assert told.startswith("GPUs are cut into slices (mig-")
    assert "whole" in told


def test_a_cloud_s_slices_are_refused() -> None:
    assert "1g.5gb" in refusal(H100 | {"cloud.google.com/gke-gpu-partition-size": "1g.5gb"})


@pytest.mark.parametrize(
    ("partition", "refused"), [("spx_nps1", False), ("cpx_nps4", True), ("dpx_nps1", True)]
)
def test_amd_devices_count_only_as_a_whole(partition: str, *, refused: bool) -> None:
    labels = MI300X | {"amd.com/gpu.compute-memory-partition": partition}
    assert bool(refusal(labels, {"amd.com/gpu": "8"})) is refused


def test_amd_partitions_under_their_own_resource_are_refused() -> None:
    assert "cpx_nps4" in refusal(MI300X, {"amd.com/cpx_nps4": "64"})


def test_gpus_that_nobody_names_are_refused_with_the_label_to_set() -> None:
    assert refusal({}) == "no label nvidia.com/gpu.product names its accelerator"
    assert "amd.com/gpu.product-name" in refusal({}, {"amd.com/gpu": "8"})


def link(
    labels: dict[str, str] | None = None,
    networks: dict[str, float] | None = None,
    given: str | None = None,
    device: str = "H100",
) -> Link:
    annotations = {} if given is None else {ANNOTATION_NETWORK: given}
    found = node(H100 | (labels or {}), annotations=annotations)
    return link_of(found, find_device(device), networks or {})


def test_an_instance_type_has_the_rate_that_its_cloud_prints() -> None:
    assert link({INSTANCE: "p4d.24xlarge"}) == Link(rate=50e9, source="instance type p4d.24xlarge")
    assert link({INSTANCE: "Standard_ND96isr_H100_v5"}).rate == 400e9
    assert link({"beta.kubernetes.io/instance-type": "a3-highgpu-8g"}).rate == 100e9


def test_an_unknown_instance_leaves_it_to_the_table_by_product() -> None:
    assert link({INSTANCE: "my-machine"}) == Link()
    assert link() == Link()


@pytest.mark.parametrize("key", ["p4d.24xlarge", "H100-80GB"])
def test_the_settings_go_before_the_table(key: str) -> None:
    found = link({INSTANCE: "p4d.24xlarge"}, {key: 12.5e9})
    assert found == Link(rate=12.5e9, source=f"set for {key}")


def test_the_settings_for_an_instance_go_before_those_for_a_product() -> None:
    both = {"H100-80GB": 1e9, "p4d.24xlarge": 2e9}
    assert link({INSTANCE: "p4d.24xlarge"}, both).rate == 2e9


def test_a_node_s_own_annotation_goes_before_all() -> None:
    found = link({INSTANCE: "p4d.24xlarge"}, {"p4d.24xlarge": 2e9}, "800")
    assert found == Link(rate=100e9, source="annotation qwenft.dev/network-gbps")


@pytest.mark.parametrize("given", ["", "fast", "0", "-5", "1e9", "nan", "x" * 9999])
def test_an_absurd_annotation_is_told_and_not_believed(given: str) -> None:
    found = link({INSTANCE: "p4d.24xlarge"}, given=given)
    assert found.rate is None
    assert found.remark.startswith("annotation qwenft.dev/network-gbps is ")
    assert len(found.remark) < 120


def test_cpu_nodes_believe_people_but_no_cloud() -> None:
    labels = {INSTANCE: "p4d.24xlarge"}
    assert link_of(node(labels), None, {}) == Link()
    annotated = node(labels, annotations={ANNOTATION_NETWORK: "8"})
    assert link_of(annotated, None, {}).rate == 1e9
