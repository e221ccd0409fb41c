"""What there is to run on: nodes, their devices, memory and links.

The operator makes an `Inventory` from Node objects, `Inventory.parse` makes one from the short
notation of the command line. A CPU node is an inventory too: its devices are processes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from qwenft_plan.errors import SpecError
from qwenft_plan.hardware import CPU, GIB, Device, cpu_device, find_device

__all__ = ["PLAIN", "Group", "Inventory", "NodeShape"]

PLAIN = "TCP"
"""The fabric that every node has: a pod's own interface."""

_NOTATION = re.compile(r"(\d+)x(\d+)x([A-Za-z][\w. +/-]*)")
_TRAILING_MEMORY = re.compile(r"cpu(?:-(\d+)\s*gi?b?)?", re.IGNORECASE)
_MAX_NODES, _MAX_DEVICES = 4096, 72


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeShape:
    """One node: `devices` free accelerators of `product` (or, for `cpu`, processes).

    `device_memory_bytes` is the memory of one device, for a CPU process its share of the node's;
    None reads it from the table. `network_bytes_per_second` is one-way out of the node and
    `link_bytes_per_second` one-way between two devices in it; None reads the table.
    `network_source` says in a few words who gave the network's rate; empty: the table.
    `fabric` is what that rate is reached over, for people; empty: nobody looked. Nodes of several
    fabrics or zones reach each other at `plain_bytes_per_second`, over TCP; None: at the same rate.
    `zone`: where the node lies; empty is not known, or does not matter.
    `host_memory_bytes`: free memory of the node itself; None is not known, and not checked.
    """

    name: str
    product: str
    devices: int
    device_memory_bytes: int | None = None
    network_bytes_per_second: float | None = None
    link_bytes_per_second: float | None = None
    cpus_per_process: int = 1
    network_source: str = ""
    fabric: str = ""
    plain_bytes_per_second: float | None = None
    plain_source: str = ""
    zone: str = ""
    host_memory_bytes: int | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether the devices are CPU processes, joined by gloo."""
        return find_device(self.product) is CPU

    @property
    def device(self) -> Device:
        """The table's device with this node's own memory and links.

        Raises `SpecError` for a product that the table does not have.
        """
        found = _device(
            self.product,
            self.cpus_per_process,
            self.device_memory_bytes,
            self.network_bytes_per_second,
            self.link_bytes_per_second,
        )
        if found is None:
            message = f"unknown accelerator {self.product!r} on node {self.name}"
            raise SpecError("inventory", message)
        return found


@lru_cache(maxsize=4096)
def _device(
    product: str, cpus: int, memory: int | None, network: float | None, link: float | None
) -> Device | None:
    """Return the device of a node; most nodes of a cluster have the same one, asked for often."""
    found = find_device(product)
    if found is None:
        return None
    base = cpu_device(cpus=cpus) if found is CPU else found
    return replace(
        base,
        memory=memory or base.memory,
        network=network or base.network,
        link=link or base.link,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Interchangeable nodes: one device, `count` nodes with at least `devices` of it each.

    `network_source`: who gave the rate of the slowest node's network; empty: the table. `fabric`:
    what all of them are joined by; empty: nobody looked. `zone`: the one that they are confined to;
    empty: they need not be. `zones`: how many they lie in.
    `host_memory`: free bytes of the fullest node, as far as any is known.
    """

    device: Device
    count: int
    devices: int
    network_source: str = ""
    fabric: str = ""
    zone: str = ""
    zones: int = 1
    host_memory: float | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether the devices are CPU processes."""
        return self.device.vendor == "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """The nodes a run may use. Their order and names never change a plan."""

    nodes: tuple[NodeShape, ...]

    @classmethod
    def parse(cls, text: str) -> Inventory:
        """Parse `2x8xH100-80G`, `2x4xcpu`, `2x1xcpu-4G`, or several joined by `,`.

        Raises `SpecError` at `--on` for other notations, unknown devices, absurd counts.
        """
        nodes: list[NodeShape] = []
        for part in text.split(","):
            nodes.extend(_parse_part(part.strip(), len(nodes)))
        return cls(nodes=tuple(nodes))

    def groups(self) -> tuple[Group, ...]:
        """Return every homogeneous choice, largest first: one device, nodes with ≥ n devices.

        Nodes of one product that differ in memory or links count with the smallest value, nodes
        that differ in fabric or zone with what they all reach; those of one fabric, of one zone, or
        of both, are choices as well. Of zones that differ in size only the largest is one.
        """
        products: dict[str, list[NodeShape]] = {}
        for node in self.nodes:
            if node.devices > 0:
                products.setdefault(node.device.name, []).append(node)
        found: list[Group] = []
        for name in sorted(products):
            found.extend(_product_groups(products[name]))
        return tuple(found)

    def describe(self) -> str:
        """Return the short form: `2×8 H100-80GB`, several groups joined by ` + `."""
        kinds: dict[tuple[int, str], int] = {}
        for node in self.nodes:
            key = (node.devices, node.device.name)
            kinds[key] = kinds.get(key, 0) + 1
        texts = [f"{count}×{devices} {name}" for (devices, name), count in sorted(kinds.items())]
        return " + ".join(texts) if texts else "no nodes"


def _product_groups(nodes: list[NodeShape]) -> list[Group]:
    groups = []
    for devices in sorted({node.devices for node in nodes}, reverse=True):
        able = [node for node in nodes if node.devices >= devices]
        groups += _by_fabric(able, devices, zone="")
        zones = sorted({node.zone for node in able})
        if len(zones) > 1:
            confined = [
                group
                for zone in zones
                if zone
                for group in _by_fabric(
                    [node for node in able if node.zone == zone], devices, zone=zone
                )
            ]
            groups += _largest(confined)
    return groups


def _by_fabric(nodes: list[NodeShape], devices: int, *, zone: str) -> list[Group]:
    """Return all of the nodes, and where they differ in it those of each fabric.

    Fabrics end with their zone: between zones there is TCP only.
    """
    fabrics = sorted({node.fabric for node in nodes})
    alone = [
        [node for node in nodes if node.fabric == fabric] for fabric in fabrics if fabric != PLAIN
    ]
    together = len({node.zone for node in nodes}) == 1
    choices = [nodes, *alone] if together and len(fabrics) > 1 else [nodes]
    return [_group(choice, devices, zone=zone) for choice in choices]


def _largest(groups: list[Group]) -> list[Group]:
    """Drop each zone beside which another has more of the same nodes."""
    kept: dict[Group, Group] = {}
    for group in sorted(groups, key=lambda group: (-group.count, group.zone)):
        kept.setdefault(replace(group, zone="", count=0), group)
    return list(kept.values())


def _group(nodes: list[NodeShape], devices: int, *, zone: str) -> Group:
    """Return nodes as one choice: every figure is that of the least of them."""
    fabrics, zones = {node.fabric for node in nodes}, {node.zone for node in nodes}
    apart = len(fabrics) > 1 or len(zones) > 1
    # Of several nodes that are as slow the first in the alphabet: their order means nothing.
    network, source = min(_reach(node, apart=apart) for node in nodes)
    able = [node.device for node in nodes]
    # Rates of one product differ only between CPU processes, by their cores: all together.
    slowest = replace(
        min(able, key=lambda device: device.peak_bf16),
        memory=min(device.memory for device in able),
        network=network,
        link=min(device.link for device in able),
    )
    hosts = [node.host_memory_bytes for node in nodes if node.host_memory_bytes is not None]
    told = PLAIN if any(fabrics) else ""
    return Group(
        device=slowest,
        count=len(nodes),
        devices=devices,
        network_source=source,
        fabric=told if apart else fabrics.pop(),
        zone=zone,
        zones=len(zones),
        host_memory=min(hosts, default=None),
    )


def _reach(node: NodeShape, *, apart: bool) -> tuple[float, str]:
    """Return bytes/s at which the node reaches the others, and who says so."""
    if apart and node.plain_bytes_per_second is not None:
        return node.plain_bytes_per_second, node.plain_source
    return node.device.network, node.network_source


def _parse_part(text: str, first: int) -> list[NodeShape]:
    match = _NOTATION.fullmatch(text)
    if match is None:
        message = f"expected NODESxDEVICESxPRODUCT such as 2x8xH100-80G or 2x4xcpu, found {text!r}"
        raise SpecError("--on", message)
    count, devices, product = int(match[1]), int(match[2]), match[3]
    if not (1 <= count <= _MAX_NODES and 1 <= devices <= _MAX_DEVICES):
        message = f"{text!r}: 1 to {_MAX_NODES} nodes of 1 to {_MAX_DEVICES} devices"
        raise SpecError("--on", message)
    if find_device(product) is None:
        raise SpecError("--on", f"unknown accelerator {product!r} (H100-80G, MI300X, cpu, …)")
    return [
        NodeShape(
            name=f"node-{first + index}",
            product=product,
            devices=devices,
            device_memory_bytes=_cpu_memory(product),
        )
        for index in range(count)
    ]


def _cpu_memory(product: str) -> int | None:
    """`cpu-4G` says how much memory a process has; GPUs read the table by their name."""
    if find_device(product) is not CPU:
        return None
    size = _TRAILING_MEMORY.fullmatch(product)
    if size is None:
        raise SpecError("--on", f"expected cpu or cpu-4G (GiB a process), found {product!r}")
    return int(size[1]) * GIB if size[1] else None
