"""Accelerators are found in what people print, and the table agrees with the data sheets."""

from __future__ import annotations

from dataclasses import fields

import pytest

from qwenft_plan.hardware import CPU, DEVICES, GIB, Device, cpu_device, find_device, generation

# What clusters, drivers, papers and people print → the row of the table.
TEXTS = [
    ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
    ("NVIDIA-A100-SXM4-40GB", "A100-40GB"),
    ("NVIDIA-A100-80GB-PCIe", "A100-PCIe-80GB"),
    ("NVIDIA-A100-PCIE-40GB", "A100-PCIe-40GB"),
    ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
    ("A100", "A100-80GB"),
    ("a100 40g", "A100-40GB"),
    ("nvidia-tesla-a100", "A100-40GB"),
    ("nvidia-a100-80gb", "A100-80GB"),
    ("nvidia-h100-mega-80gb", "H100-80GB"),
    ("nvidia-h200-141gb", "H200-141GB"),
    ("A100-80G", "A100-80GB"),
    ("A100 (80 GB)", "A100-80GB"),
    ("8x A100 40GB", "A100-40GB"),
    ("NVIDIA-A800-SXM4-80GB", "A800-80GB"),
    ("A800", "A800-80GB"),
    ("NVIDIA-H100-80GB-HBM3", "H100-80GB"),
    ("H100-SXM-96GB-HBM2e(500W)", "H100-96GB"),
    ("H100 SXM5", "H100-80GB"),
    ("H100-80G", "H100-80GB"),
    ("NVIDIA-H100-PCIe", "H100-PCIe-80GB"),
    ("NVIDIA H100 PCIe", "H100-PCIe-80GB"),
    ("NVIDIA-H100-NVL", "H100-NVL-94GB"),
    ("NVIDIA-H200", "H200-141GB"),
    ("H200 SXM 141GB", "H200-141GB"),
    ("NVIDIA-H800", "H800-80GB"),
    ("NVIDIA-H20", "H20-96GB"),
    ("NVIDIA-GH200-480GB", "GH200-96GB"),
    ("NVIDIA-B200", "B200-180GB"),
    ("B200_HGX", "B200-180GB"),
    ("NVIDIA-GB200", "GB200-186GB"),
    ("GB200 NVL72", "GB200-186GB"),
    ("NVIDIA-B300", "B300-270GB"),
    ("GB300", "GB300-278GB"),
    ("NVIDIA-L4", "L4-24GB"),
    ("NVIDIA-L40S", "L40S-48GB"),
    ("NVIDIA-L40", "L40-48GB"),
    ("NVIDIA-RTX-A6000", "A6000-48GB"),
    ("NVIDIA-A10G", "A10-24GB"),
    ("NVIDIA-GeForce-RTX-4090", "RTX4090-24GB"),
    ("GeForce RTX 3090", "RTX3090-24GB"),
    ("Tesla-T4", "T4-16GB"),
    ("Tesla V100-SXM2-32GB", "V100-32GB"),
    ("AMD_Instinct_MI300X_OAM", "MI300X-192GB"),
    ("MI300X", "MI300X-192GB"),
    ("AMD Instinct MI325X", "MI325X-256GB"),
    ("MI355X", "MI355X-288GB"),
    ("AMD_Instinct_MI250", "MI250-64GB"),
    ("MI250X", "MI250-64GB"),
    ("cpu", "CPU"),
    ("CPU", "CPU"),
    ("cpu-4G", "CPU"),
]

# Data sheets: dense bf16 TFLOP/s, GB, HBM TB/s, GB/s one way to a neighbour.
SHEETS = [
    ("A100-40GB", 312, 40, 1.555, 300),
    ("A100-80GB", 312, 80, 2.0, 300),
    ("H100-80GB", 989, 80, 3.35, 450),
    ("H200-141GB", 989, 141, 4.8, 450),
    ("B200-180GB", 2250, 180, 8.0, 900),
    ("MI300X-192GB", 1307, 192, 5.3, 448),
]

# Best matrix multiplication measured in public, TFLOP/s.
MEASURED = [
    ("A100-80GB", 271),
    ("H100-80GB", 794),
    ("H200-141GB", 794),
    ("B200-180GB", 1745),
    ("MI300X-192GB", 668),
    ("MI355X-288GB", 1565),
]


def device(name: str) -> Device:
    return next(found for found in DEVICES if found.name == name)


@pytest.mark.parametrize(("text", "name"), TEXTS)
def test_a_device_is_found_in_what_people_print(text: str, name: str) -> None:
    found = find_device(text)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("name", [device.name for device in DEVICES])
def test_every_row_is_found_under_its_own_name(name: str) -> None:
    assert find_device(name) is device(name)


@pytest.mark.parametrize("text", ["", " ", "gpu", "TPU v5e", "Gaudi3", "K80", "A4000", "100", "x",
                                  "H1000", "A1000", "B2000", "V1000-80G"])  # fmt: skip
def test_an_unknown_accelerator_is_not_guessed(text: str) -> None:
    assert find_device(text) is None


@pytest.mark.parametrize("text", ["CPUX", "ncpu", "xcpu-4G"])
def test_a_word_that_merely_holds_cpu_is_no_cpu(text: str) -> None:
    assert find_device(text) is None


@pytest.mark.parametrize(("name", "tflops", "gigabytes", "hbm", "link"), SHEETS)
def test_a_row_agrees_with_the_data_sheet(
    name: str, tflops: float, gigabytes: float, hbm: float, link: float
) -> None:
    found = device(name)
    assert found.peak_bf16 == tflops * 1e12
    assert 0.97 * gigabytes * GIB < found.memory < gigabytes * GIB
    assert found.hbm == hbm * 1e12
    assert found.link == link * 1e9


@pytest.mark.parametrize(("name", "tflops"), MEASURED)
def test_the_achievable_rate_is_the_one_that_was_measured_in_public(
    name: str, tflops: float
) -> None:
    assert device(name).matmul_bf16 == tflops * 1e12


@pytest.mark.parametrize("found", [*DEVICES, CPU], ids=lambda found: found.name)
def test_every_rate_and_size_is_positive(found: Device) -> None:
    may_be_zero = {"link_latency", "network_latency"}
    for field in fields(found):
        value = getattr(found, field.name)
        if isinstance(value, int | float):
            assert value > 0 or field.name in may_be_zero, field.name


@pytest.mark.parametrize("found", [*DEVICES, CPU], ids=lambda found: found.name)
def test_no_achievable_rate_exceeds_the_peak(found: Device) -> None:
    assert found.matmul_bf16 <= found.peak_bf16
    assert found.matmul_fp32 <= found.matmul_bf16
    assert found.attention < found.peak_bf16
    assert 0 < found.sustained <= 1


@pytest.mark.parametrize("found", DEVICES, ids=lambda found: found.name)
def test_fp8_is_never_slower_than_bf16(found: Device) -> None:
    assert found.matmul_fp8 >= found.matmul_bf16


@pytest.mark.parametrize("found", DEVICES, ids=lambda found: found.name)
def test_memory_is_faster_than_the_link_to_a_neighbour(found: Device) -> None:
    assert found.hbm > found.link


@pytest.mark.parametrize("found", DEVICES, ids=lambda found: found.name)
def test_a_name_ends_in_the_printed_memory(found: Device) -> None:
    printed = int(found.name.rsplit("-", 1)[1].removesuffix("GB"))
    # Error correction takes up to a tenth of the smallest parts.
    assert 0.9 * printed < found.memory / GIB < printed


def test_names_are_unique() -> None:
    assert len({found.name for found in DEVICES}) == len(DEVICES)


@pytest.mark.parametrize(
    ("name", "vendor"),
    [
        ("A100-80GB", "nvidia"),
        ("MI300X-192GB", "amd"),
        ("MI250-64GB", "amd"),
        ("L4-24GB", "nvidia"),
    ],
)
def test_the_vendor_follows_from_the_product(name: str, vendor: str) -> None:
    assert device(name).vendor == vendor


def test_an_mi250_counts_as_its_two_dies() -> None:
    die = device("MI250-64GB")
    assert (die.peak_bf16, round(die.memory / GIB / 64, 1)) == (181e12, 1.0)


@pytest.mark.parametrize(
    ("faster", "slower"),
    [
        ("H100-80GB", "A100-80GB"),
        ("H200-141GB", "H100-80GB"),
        ("B200-180GB", "H200-141GB"),
        ("A100-80GB", "A100-PCIe-80GB"),
        ("H100-80GB", "H100-PCIe-80GB"),
        ("H800-80GB", "A800-80GB"),
        ("MI355X-288GB", "MI300X-192GB"),
        ("L40S-48GB", "L4-24GB"),
    ],
)
def test_a_better_product_is_nowhere_worse(faster: str, slower: str) -> None:
    one, other = device(faster), device(slower)
    for field in ("matmul_bf16", "matmul_fp8", "hbm", "memory"):
        assert getattr(one, field) >= getattr(other, field), field


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("A100-40GB", 39.39),
        ("A100-80GB", 79.15),
        ("H100-80GB", 79.11),
        ("H200-141GB", 139.8),
        ("L40S-48GB", 44.34),
        ("L4-24GB", 22.03),
        ("A10-24GB", 22.03),
        ("T4-16GB", 14.56),
        ("V100-16GB", 15.77),
        ("RTX4090-24GB", 23.64),
    ],
)
def test_no_more_memory_is_counted_on_than_cuda_shows_a_process(name: str, shown: float) -> None:
    """Each is the smallest `total capacity` that out-of-memory messages of that part print."""
    usable = device(name).memory / GIB
    assert 0.97 * shown <= usable <= 1.002 * shown


def test_export_variants_differ_from_the_original_by_their_link() -> None:
    original, variant = device("A100-80GB"), device("A800-80GB")
    assert (variant.matmul_bf16, variant.memory) == (original.matmul_bf16, original.memory)
    assert variant.link < original.link


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A100-80GB", "ampere"),
        ("A800-80GB", "ampere"),
        ("H100-80GB", "hopper"),
        ("H20-96GB", "hopper"),
        ("GH200-96GB", "hopper"),
        ("B200-180GB", "blackwell"),
        ("GB300-278GB", "blackwell"),
        ("MI300X-192GB", "cdna"),
    ],
)
def test_a_generation_follows_from_the_name(name: str, expected: str) -> None:
    assert generation(name) == expected


@pytest.mark.parametrize("cpus", [1, 2, 16, 64])
def test_rates_of_a_cpu_process_grow_with_its_cores(cpus: int) -> None:
    process = cpu_device(cpus=cpus)
    for field in ("peak_bf16", "matmul_bf16", "matmul_fp32", "attention", "hbm"):
        assert getattr(process, field) == cpus * getattr(CPU, field)


def test_memory_and_network_of_a_cpu_process_do_not_depend_on_its_cores() -> None:
    process = cpu_device(cpus=16)
    assert (process.memory, process.network, process.link) == (CPU.memory, CPU.network, CPU.link)


def test_a_cpu_process_may_have_its_own_memory() -> None:
    assert cpu_device(cpus=1, memory=3 * GIB).memory == 3 * GIB
