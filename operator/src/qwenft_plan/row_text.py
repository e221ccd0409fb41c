"""What the free-text columns of a table of runs mean."""

from __future__ import annotations

import re
from dataclasses import replace

from qwenft_plan.hardware import Device
from qwenft_plan.workload import Method

__all__ = ["device_of", "method_of", "precision_of", "recompute_of", "zero_of"]

_GIGABITS = re.compile(r"(?:(\d+)\s*x\s*)?(\d+(?:\.\d+)?)\s*[Gg]b(?:ps|/s|it)?\b")
_NETWORK_WORDS = re.compile(r"node|inter|ib\b|infiniband|roce|hdr|ndr|rdma|ethernet|efa|nic")


def precision_of(text: str) -> str:
    """Return bf16_mixed, bf16_pure, fp8 or fp32; fp16 counts as bf16."""
    lowered = text.lower()
    if re.search(r"fp8|float8|mxfp|nvfp4|fp4", lowered):
        return "fp8"
    if "pure" in lowered:
        return "bf16_pure"
    half = re.search(r"bf16|fp16|bfloat|half|amp|mixed", lowered)
    return "fp32" if re.search(r"fp32|float32|tf32", lowered) and not half else "bf16_mixed"


def recompute_of(text: str) -> str:
    """Return none, selective or full; an empty column means none."""
    lowered = text.lower()
    if "selective" in lowered or "partial" in lowered:
        return "selective"
    if re.search(r"full|true|yes|uniform|block|checkpoint|\bon\b", lowered):
        return "full"
    return "none"


def method_of(text: str) -> Method:
    """Return what is trained, from kind, framework and optimizer together."""
    lowered = text.lower()
    kind = "qlora" if "qlora" in lowered else "lora" if "lora" in lowered else "full"
    eight = re.search(r"adam\w*.?8.?bit|8.?bit.?(paged.?)?adam", lowered)
    return Method(
        kind=kind,
        optimizer="adamw8bit" if eight else "adamw",
        offload_optimizer=bool(re.search(r"offload(?!.?false)|zero-offload", lowered)),
    )


def zero_of(text: str, fsdp: int, default: int) -> tuple[int, int | None]:
    """Return the level of sharding (0 to 3) and the size of its group where it is printed."""
    lowered = text.lower()
    group = re.search(r"group\s*=?\s*(\d+)", lowered)
    size = int(group[1]) if group else None
    level = re.search(r"(?:zero|stage)[-_ ]?([0-3])", lowered) or re.fullmatch(r"([0-3])", lowered)
    if level:
        return int(level[1]), size
    if fsdp > 1 or re.search(r"fsdp|hsdp|full_shard", lowered):
        return 3, size
    return default, size


def device_of(device: Device, interconnect: str) -> Device:
    """Return `device` with the network that the text prints, in gigabits/s per node.

    `8x400Gb IB`, `400Gb/s RDMA per GPU`, `1600 Gbps node-node`, `4x100Gb RoCE per node`.
    """
    for part in re.split(r"[;,+]| and ", interconnect):
        lowered = part.lower()
        found = _GIGABITS.search(part)
        if found is None or not _NETWORK_WORDS.search(lowered):
            continue
        rate = float(found[2]) * int(found[1] or 1) / 8 * 1e9
        if "per gpu" in lowered and not found[1]:
            rate *= device.per_node
        if rate >= 1e8:  # noqa: PLR2004 - slower than any network that trains
            return replace(device, network=rate)
    return device
