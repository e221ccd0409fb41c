"""Free text means what people mean by it."""

from __future__ import annotations

import pytest

from planning import DEVICE
from qwenft_plan.row_text import device_of, method_of, precision_of, recompute_of, zero_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "bf16_mixed"),
        ("bf16", "bf16_mixed"),
        ("bf16_mixed(fp32 master)", "bf16_mixed"),
        ("BF16 mixed", "bf16_mixed"),
        ("fp16", "bf16_mixed"),
        ("amp", "bf16_mixed"),
        ("AMP_BF16", "bf16_mixed"),
        ("pure bf16", "bf16_pure"),
        ("bf16_pure", "bf16_pure"),
        ("fp8", "fp8"),
        ("FP8 delayed scaling", "fp8"),
        ("float8 tensorwise", "fp8"),
        ("bf16+fp8", "fp8"),
        ("MXFP8", "fp8"),
        ("NVFP4", "fp8"),
        ("fp32", "fp32"),
        ("float32", "fp32"),
        ("TF32", "fp32"),
    ],
)
def test_a_precision_is_recognised(text: str, expected: str) -> None:
    assert precision_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "none"),
        ("none", "none"),
        ("no", "none"),
        ("off", "none"),
        ("false", "none"),
        ("full", "full"),
        ("Full", "full"),
        ("full(uniform 1)", "full"),
        ("true", "full"),
        ("yes", "full"),
        ("on", "full"),
        ("activation checkpointing", "full"),
        ("block", "full"),
        ("selective", "selective"),
        ("selective(torchtitan op SAC)", "selective"),
        ("partial", "selective"),
    ],
)
def test_recomputation_is_recognised(text: str, expected: str) -> None:
    assert recompute_of(text) == expected


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("pretrain", "full"),
        ("sft full", "full"),
        ("lora", "lora"),
        ("LoRA r=8", "lora"),
        ("qlora", "qlora"),
        ("QLoRA (4 bit)", "qlora"),
    ],
)
def test_adapters_are_recognised(text: str, kind: str) -> None:
    assert method_of(text, "", "").kind == kind


@pytest.mark.parametrize(
    ("text", "optimizer"),
    [
        ("AdamW", "adamw"),
        ("adamw_8bit", "adamw8bit"),
        ("AdamW 8-bit", "adamw8bit"),
        ("8-bit paged AdamW", "adamw8bit"),
        ("8bit Adam", "adamw8bit"),
        ("load in 8 bit", "adamw"),
        ("", "adamw"),
    ],
)
def test_an_eight_bit_optimizer_is_recognised(text: str, optimizer: str) -> None:
    assert method_of("", text, "").optimizer == optimizer


@pytest.mark.parametrize(
    ("text", "offloaded"),
    [
        ("ZeRO-3 offload", True),
        ("ZeRO-Offload", True),
        ("cpu offload optimizer", True),
        ("offload=false", False),
        ("ZeRO-3", False),
    ],
)
def test_an_offloaded_optimizer_is_recognised(text: str, *, offloaded: bool) -> None:
    assert method_of("", "", text).offload_optimizer is offloaded


@pytest.mark.parametrize(
    ("text", "fsdp", "default", "expected"),
    [
        ("", 1, 3, (3, None)),
        ("", 1, 0, (0, None)),
        ("", 8, 0, (3, None)),
        ("0", 1, 3, (0, None)),
        ("1", 1, 0, (1, None)),
        ("2", 8, 0, (2, None)),
        ("3", 1, 0, (3, None)),
        ("ZeRO-1", 1, 0, (1, None)),
        ("zero3", 1, 0, (3, None)),
        ("stage 2", 1, 0, (2, None)),
        ("FULL_SHARD", 1, 0, (3, None)),
        ("HSDP", 1, 0, (3, None)),
        ("fsdp", 1, 0, (3, None)),
        ("zero-1 group=8", 1, 0, (1, 8)),
        ("zero1, group 16", 1, 0, (1, 16)),
        ("no_shard", 1, 3, (0, None)),
    ],
)
def test_a_level_of_sharding_is_recognised(
    text: str, fsdp: int, default: int, expected: tuple[int, int | None]
) -> None:
    assert zero_of(text, fsdp, default)[:2] == expected


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [
        ("8x400Gb IB", 400),
        ("8 x 400Gb InfiniBand", 400),
        ("1600 Gbps node-node", 200),
        ("400Gb/s RDMA per GPU", 400),
        ("4x100Gb RoCE per node", 50),
        ("NVLink 600GB/s; 8x200Gb HDR IB", 200),
        ("25Gb ethernet between nodes", 3.125),
        ("3200Gbps EFA", 400),
    ],
)
def test_a_network_is_read_in_gigabits_a_node(text: str, gigabytes: float) -> None:
    assert device_of(DEVICE, text).network == pytest.approx(gigabytes * 1e9)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NVLink",
        "NVLink 600GB/s",
        "PCIe 4.0",
        "IB",
        "fast network",
        "0.1Gb ethernet",
        "900 GB/s",
    ],
)
def test_what_names_no_rate_of_a_network_leaves_the_table(text: str) -> None:
    assert device_of(DEVICE, text) is DEVICE


def test_a_network_changes_nothing_else() -> None:
    found = device_of(DEVICE, "8x400Gb IB")
    assert (found.link, found.memory, found.name) == (DEVICE.link, DEVICE.memory, DEVICE.name)
