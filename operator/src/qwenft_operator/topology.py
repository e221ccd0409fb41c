"""Where nodes lie in the network, by their labels, and where the pods of a plan should go. Pure.

Two rules. A plan whose rate holds within one zone stays in that zone, whatever comes: its pods
require it. Within a zone no rate is promised for being nearer, so that pods only prefer the
narrowest domain that has room for all of them: a full rack must not keep a run from starting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["LEVELS", "ZONE", "Nearness", "domains_of", "nearness"]

ZONE = "topology.kubernetes.io/zone"

LEVELS = (
    # The widest first; of several families the last named is the narrowest. Google: GKE, "view the
    # topology of nodes". Amazon: EKS, cloud controller; the layer that instances hang on is the
    # last. Oracle: OKE, RDMA network locality. Kueue's own examples. NVIDIA: Topograph, old and new
    # names; GPU feature discovery for what NVLink joins across nodes.
    "cloud.google.com/gce-topology-block",
    "cloud.google.com/gce-topology-subblock",
    "topology.k8s.aws/network-node-layer-1",
    "topology.k8s.aws/network-node-layer-2",
    "topology.k8s.aws/network-node-layer-3",
    "topology.k8s.aws/network-node-layer-4",
    "topology.k8s.aws/ultraserver-id",
    "oci.oraclecloud.com/rdma.hpc_island_id",
    "oci.oraclecloud.com/rdma.network_block_id",
    "oci.oraclecloud.com/rdma.local_block_id",
    "cloud.provider.com/topology-block",
    "cloud.provider.com/topology-rack",
    "network.topology.nvidia.com/datacenter",
    "network.topology.nvidia.com/core",
    "network.topology.nvidia.com/spine",
    "network.topology.nvidia.com/block",
    "network.topology.nvidia.com/leaf",
    "fabric.topograph.run/tier-2",
    "fabric.topograph.run/tier-1",
    "fabric.topograph.run/tier-0",
    "network.topology.nvidia.com/accelerator",
    "accelerator.topograph.run/domain",
    "nvidia.com/gpu.clique",
)

Domains = Mapping[str, str]
"""Label → value of one node."""

_PACKED, _STEP = 60, 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Nearness:
    """Which nodes the pods of a plan prefer."""

    domain: tuple[str, str] | None = None
    """The narrowest domain that has room for all, by label and value."""
    keys: tuple[str, ...] = ()
    """Labels of narrower domains, in few of which the pods should lie, the widest first."""

    @property
    def weighted(self) -> tuple[tuple[str, int], ...]:
        """Each label with its weight in the scheduler, 1 to 100; the widest counts most."""
        return tuple(
            (key, max(1, _PACKED - _STEP * index)) for index, key in enumerate(self.keys[:3])
        )

    def __str__(self) -> str:
        """Return the preference for people, empty where there is none."""
        parts = []
        if self.domain is not None:
            parts.append(f"{self.domain[0]}={self.domain[1]}, which has room for all of them")
        if self.keys:
            parts.append(f"few domains of {self.keys[0]}")
        return f"Pods prefer {' and '.join(parts)}." if parts else ""


def domains_of(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the domains that a node lies in, the widest first."""
    return {key: labels[key] for key in LEVELS if labels.get(key)}


def nearness(nodes: Iterable[Domains], count: int) -> Nearness:
    """Return what ``count`` pods on as many of these nodes should prefer.

    Of several domains with room for all the fullest is taken, so that larger ones stay whole for
    larger runs; of equals the first by name. Labels that not all of the nodes have say nothing, nor
    do those by which all lie in one domain, or each in its own.
    """
    found = list(nodes)
    keys = [key for key in LEVELS if found and all(key in node for node in found)]
    sizes = {key: Counter(node[key] for node in found) for key in keys}
    telling = [key for key in keys if 1 < len(sizes[key]) < len(found)]
    if count < 2:  # noqa: PLR2004 - one pod is near to itself
        return Nearness()
    for index in reversed(range(len(telling))):
        key = telling[index]
        roomy = [(size, name) for name, size in sizes[key].items() if size >= count]
        if roomy:
            return Nearness(domain=(key, min(roomy)[1]), keys=tuple(telling[index + 1 :]))
    return Nearness(keys=tuple(telling))
