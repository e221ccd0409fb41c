"""What a node's accelerators are, by its labels and resources. Pure.

A rank needs a device of its own, whole: collectives do not run between slices of one device, and
two processes that share one wait for each other. Shared and sliced devices are left out, each with
the reason; whole ones beside slices count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenft_operator.quantities import amount
from qwenft_plan.hardware import Device, find_device
from qwenft_plan.instances import gigabits

__all__ = ["ANNOTATION_NETWORK", "Link", "Part", "has_accelerators", "link_of", "part_of"]

Body = Mapping[str, Any]

ANNOTATION_NETWORK = "qwenft.dev/network-gbps"
"""On a Node: Gbit/s, one way, at which it reaches the others."""

_NVIDIA, _AMD = "nvidia.com/gpu", "amd.com/gpu"
_PRODUCTS = {
    _NVIDIA: (
        "nvidia.com/gpu.product",
        "cloud.google.com/gke-accelerator",
        "karpenter.k8s.aws/instance-gpu-name",
    ),
    _AMD: ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"),
}
_MEMORY = {_NVIDIA: "nvidia.com/gpu.memory"}  # MiB, by GPU feature discovery
_SHARED = "nvidia.com/gpu.shared"
_SLICES = {_NVIDIA: ("nvidia.com/mig-", _SHARED), _AMD: ("amd.com/",)}
_STRATEGIES = ("nvidia.com/gpu.sharing-strategy", "cloud.google.com/gke-gpu-sharing-strategy")
_REPLICAS = ("nvidia.com/gpu.replicas", "cloud.google.com/gke-max-shared-clients-per-gpu")
_CLOUD_SLICE = "cloud.google.com/gke-gpu-partition-size"
_AMD_PARTITION = "amd.com/gpu.compute-memory-partition"
_INSTANCES = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
_MIB = 2**20
_MOST_GBITS = 100_000.0
_BY_INSTANCE = "instance type"
_WHOLE = "a rank needs a whole one"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A node's accelerators as the planner counts them, or why they are not counted."""

    resource: str
    """Extended resource that pods ask for."""
    product: str = ""
    label: tuple[str, str] | None = None
    """Label and value that name the product."""
    memory: int | None = None
    """Bytes of one device, where a label tells."""
    refusal: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """What is known of a node's network: bytes/s one way and who says so, or what is wrong."""

    rate: float | None = None
    source: str = ""
    remark: str = ""

    @property
    def is_given(self) -> bool:
        """Whether a person gave the rate, of what the pods do reach."""
        return self.rate is not None and not self.source.startswith(_BY_INSTANCE)


def has_accelerators(node: Body) -> bool:
    """Return whether the node has accelerators, whole or in slices."""
    return _resource(_allocatable(node)) != ""


def part_of(node: Body) -> Part | None:
    """Return the node's accelerators, None for a node that has none."""
    allocatable, labels = _allocatable(node), _labels(node)
    resource = _resource(allocatable)
    if not resource:
        return None
    key = next((key for key in _PRODUCTS[resource] if labels.get(key)), "")
    product = labels.get(key, "")
    refusal = (
        _shared(allocatable, labels, product)
        or _sliced(resource, allocatable, labels, product)
        or _unnamed(resource, product)
    )
    memory = int(amount(labels.get(_MEMORY.get(resource, ""), 0))) * _MIB
    return Part(
        resource=resource,
        product=product,
        label=(key, product) if key else None,
        memory=memory or None,
        refusal=refusal,
    )


def link_of(node: Body, device: Device | None, networks: Mapping[str, float]) -> Link:
    """Return the rate of the node's network: its annotation, the settings, its instance type.

    ``networks`` are the settings': bytes/s by instance type (lower case) or by device name. The
    rate is None where only the table by product is left. ``device`` None is a CPU node, of which
    only what a person said counts: gloo does not reach the rate that its cloud prints.
    """
    given = (node["metadata"].get("annotations") or {}).get(ANNOTATION_NETWORK)
    if given is not None:
        gbits = amount(given)
        if 0 < gbits <= _MOST_GBITS:
            return Link(rate=gbits * 1e9 / 8, source=f"annotation {ANNOTATION_NETWORK}")
        remark = f"annotation {ANNOTATION_NETWORK} is {str(given)[:32]!r}, no number of Gbit/s"
        return Link(remark=remark)
    labels = _labels(node)
    instance = next((labels[key].lower() for key in _INSTANCES if labels.get(key)), "")
    for name in (instance, device.name if device is not None else ""):
        if name in networks:
            return Link(rate=networks[name], source=f"set for {name}")
    found = gigabits(instance) if device is not None else None
    if found is None:
        return Link()
    return Link(rate=found * 1e9 / 8, source=f"{_BY_INSTANCE} {instance}")


def _allocatable(node: Body) -> Body:
    found: Body = (node.get("status") or {}).get("allocatable") or {}
    return found


def _labels(node: Body) -> Mapping[str, str]:
    found: Mapping[str, str] = node["metadata"].get("labels") or {}
    return found


def _resource(allocatable: Body) -> str:
    """Return the vendor's resource; slices count as well, whole devices first."""
    for resource in _PRODUCTS:
        if resource in allocatable:
            return resource
    return next((key for key in _PRODUCTS if _slices(key, allocatable)), "")


def _slices(resource: str, allocatable: Body) -> tuple[str, ...]:
    """Return the names of the slices that the node offers (`mig-1g.10gb`, `cpx_nps4`)."""
    prefixes = _SLICES[resource]
    found = (key for key in allocatable if key.startswith(prefixes) and key != resource)
    return tuple(sorted(key.split("/")[1] for key in found if amount(allocatable[key]) > 0))


def _shared(allocatable: Body, labels: Mapping[str, str], product: str) -> str:
    strategy = next((labels[key] for key in _STRATEGIES if labels.get(key, "none") != "none"), "")
    replicas = max(int(amount(labels.get(key, 0))) for key in _REPLICAS)
    renamed = amount(allocatable.get(_SHARED, 0)) > 0
    if not (strategy or replicas > 1 or renamed or product.endswith("-SHARED")):
        return ""
    how = [strategy] if strategy else []
    how += [f"{replicas} replicas of each"] if replicas > 1 else []
    return f"GPUs are shared ({', '.join(how) or 'replicated'}): {_WHOLE}"


def _sliced(resource: str, allocatable: Body, labels: Mapping[str, str], product: str) -> str:
    """Return why slices are all that the node has; whole devices beside them are counted."""
    if "-MIG-" in product:
        return f"GPUs are cut into MIG slices ({product.split('-MIG-')[1]}): {_WHOLE}"
    if labels.get(_CLOUD_SLICE):
        return f"GPUs are cut into MIG slices ({labels[_CLOUD_SLICE]}): {_WHOLE}"
    partition = labels.get(_AMD_PARTITION, "spx").lower()
    if resource == _AMD and not partition.startswith("spx"):
        return f"GPUs are partitioned ({partition}): {_WHOLE}"
    slices = _slices(resource, allocatable)
    if slices and amount(allocatable.get(resource, 0)) < 1:
        return f"GPUs are cut into slices ({', '.join(slices)[:64]}): {_WHOLE}"
    return ""


def _unnamed(resource: str, product: str) -> str:
    if not product:
        return f"no label {_PRODUCTS[resource][0]} names its accelerator"
    if find_device(product) is None:
        return f"accelerator {product[:64]!r} is not in the planner's table"
    return ""
