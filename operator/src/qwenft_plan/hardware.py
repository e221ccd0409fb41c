"""Accelerators: rates, memory and links, and how to find one from what people print.

Adding a device is adding a row. Rates are dense (no sparsity), per device as the scheduler counts
it; links are one-way per device; `network` is one-way per node of eight. `matmul` is the best
matrix multiplication rate that was measured in public (MAMF, stas00/ml-engineering), else 0.8 of
peak, the median of the measured NVIDIA parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

__all__ = ["CPU", "DEVICES", "Device", "cpu_device", "find_device", "generation"]

GIB = 1024**3
_USABLE = 0.985  # of the GiB below: what CUDA shows a process (A100-40: 39.39, H100-80: 79.1 GiB)


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One accelerator (or one CPU process).

    `matmul_bf16`, `matmul_fp8`, `matmul_fp32`: achievable FLOP/s; `sustained`: the share of them
    that lasts in training. `attention`: forward FLOP/s of flash attention. `peak_bf16`: data sheet
    FLOP/s, the denominator of MFU. `memory`: bytes a process can use. `hbm`: bytes/s. `link`:
    bytes/s to a neighbour in the node, one way. `network`: bytes/s out of a node, one way.
    `link_latency`: seconds that a collective takes beyond the runtime's own; `network_latency`:
    seconds that twice as many nodes add. `launch_factor`: slowness of the host's kernel launches.
    """

    name: str
    vendor: str
    peak_bf16: float
    matmul_bf16: float
    matmul_fp8: float
    matmul_fp32: float
    memory: int
    attention: float
    sustained: float
    hbm: float
    link: float
    network: float
    pcie: float = 25e9
    link_latency: float = 0.0
    network_latency: float = 15e-6
    per_node: int = 8
    launch_factor: float = 1.0

    @property
    def has_fp8(self) -> bool:
        """Whether matrices multiply faster in fp8 than in bf16."""
        return self.matmul_fp8 > self.matmul_bf16


# In-model behaviour by generation, calibrated by source: flash attention's forward rate as a share
# of the data sheet's peak, and how much of the best matrix multiplication rate a training step
# sustains within its power limit.
_ATTENTION = {"ampere": 0.306, "hopper": 0.171, "blackwell": 0.212, "cdna": 0.15}
_SUSTAINED = {"ampere": 1.0, "hopper": 0.877, "blackwell": 0.49, "cdna": 0.80}


def generation(name: str) -> str:
    """Return the family of chips whose in-model behaviour a device of the table shares."""
    if name.startswith("MI"):
        return "cdna"
    if name.startswith(("B200", "B300", "GB")):
        return "blackwell"
    return "hopper" if name.startswith(("H", "GH")) else "ampere"


def _device(  # noqa: PLR0913, PLR0917 - one argument a column of the table below
    name: str,
    vendor: str,
    bf16: float,
    matmul: float,
    fp8: float,
    fp32: float,
    gigabytes: float,
    hbm: float,
    link: float,
    network: float,
    pcie: float,
) -> Device:
    return Device(
        name=name,
        vendor=vendor,
        peak_bf16=bf16 * 1e12,
        matmul_bf16=matmul * 1e12,
        matmul_fp8=fp8 * 1e12,
        matmul_fp32=fp32 * 1e12,
        memory=int(gigabytes * GIB * _USABLE),
        attention=_ATTENTION[generation(name)] * bf16 * 1e12,
        sustained=_SUSTAINED[generation(name)],
        hbm=hbm * 1e12,
        link=link * 1e9,
        network=network * 1e9,
        pcie=pcie * 1e9,
    )


# Columns: bf16 peak and achievable, fp8 and fp32 achievable (TFLOP/s), GiB, HBM (TB/s), link,
# network of a node, PCIe (GB/s one way). GiB: the printed size; less where error correction takes
# its part of GDDR6 (nvidia-smi: L4 23,034, A10 23,028, L40S 46,068, T4 15,360 MiB; PyTorch's
# "total capacity": 22.03, 22.03, 44.3, 14.56 GiB). A node's own label overrides it. Data sheets;
# achievable bf16 of A100, H100, B200, MI300X and MI355X from stas00/ml-engineering; fp8
# achievable = 0.7 of its peak (AMD 0.5).
DEVICES: tuple[Device, ...] = (
    _device("A100-40GB", "nvidia", 312, 271, 271, 19.5, 40, 1.555, 300, 200, 25),
    _device("A100-80GB", "nvidia", 312, 271, 271, 19.5, 80, 2.0, 300, 200, 25),
    _device("A100-PCIe-40GB", "nvidia", 312, 232, 232, 19.5, 40, 1.555, 25, 25, 25),
    _device("A100-PCIe-80GB", "nvidia", 312, 240, 240, 19.5, 80, 1.935, 25, 25, 25),
    _device("A800-80GB", "nvidia", 312, 271, 271, 19.5, 80, 2.0, 200, 100, 25),
    _device("H100-80GB", "nvidia", 989, 794, 1385, 60, 80, 3.35, 450, 400, 55),
    _device("H100-PCIe-80GB", "nvidia", 756, 530, 930, 48, 80, 2.0, 50, 50, 55),
    _device("H100-NVL-94GB", "nvidia", 835, 620, 1100, 55, 94, 3.9, 300, 100, 55),
    _device("H100-96GB", "nvidia", 989, 720, 1250, 60, 95, 2.4, 450, 400, 55),
    _device("H800-80GB", "nvidia", 989, 794, 1385, 60, 80, 3.35, 200, 400, 55),
    _device("H20-96GB", "nvidia", 148, 138, 270, 40, 96, 4.0, 450, 400, 55),
    _device("GH200-96GB", "nvidia", 989, 794, 1385, 60, 96, 4.0, 450, 100, 200),
    _device("H200-141GB", "nvidia", 989, 794, 1385, 60, 141, 4.8, 450, 400, 55),
    _device("B200-180GB", "nvidia", 2250, 1745, 3150, 75, 180, 8.0, 900, 400, 55),
    _device("GB200-186GB", "nvidia", 2500, 1900, 3500, 80, 186, 8.0, 900, 400, 200),
    _device("B300-270GB", "nvidia", 2250, 1745, 3150, 75, 270, 8.0, 900, 800, 55),
    _device("GB300-278GB", "nvidia", 2500, 1900, 3500, 80, 278, 8.0, 900, 800, 200),
    _device("V100-32GB", "nvidia", 125, 95, 95, 15.7, 32, 0.9, 150, 12.5, 12),
    _device("V100-16GB", "nvidia", 125, 95, 95, 15.7, 16, 0.9, 150, 12.5, 12),
    _device("L40S-48GB", "nvidia", 362, 290, 500, 80, 45, 0.864, 25, 50, 25),
    _device("L40-48GB", "nvidia", 181, 150, 290, 80, 45, 0.864, 25, 25, 25),
    _device("L4-24GB", "nvidia", 121, 85, 150, 27, 22.36, 0.30, 12, 12.5, 25),
    _device("A6000-48GB", "nvidia", 155, 124, 124, 35, 48, 0.768, 25, 12.5, 25),
    _device("A10-24GB", "nvidia", 125, 90, 90, 28, 22.36, 0.60, 12, 12.5, 25),
    _device("RTX4090-24GB", "nvidia", 165, 150, 260, 75, 24, 1.01, 12, 12.5, 25),
    _device("RTX3090-24GB", "nvidia", 71, 62, 62, 33, 24, 0.936, 12, 12.5, 25),
    _device("T4-16GB", "nvidia", 65, 40, 40, 8, 14.78, 0.32, 12, 6, 12),
    _device("MI250-64GB", "amd", 181, 140, 140, 40, 64, 1.64, 100, 100, 25),
    _device("MI300X-192GB", "amd", 1307, 668, 1150, 120, 192, 5.3, 448, 400, 55),
    _device("MI300A-128GB", "amd", 980, 500, 860, 90, 128, 5.3, 448, 400, 55),
    _device("MI325X-256GB", "amd", 1307, 720, 1240, 120, 256, 6.0, 448, 400, 55),
    _device("MI355X-288GB", "amd", 2500, 1565, 2700, 140, 288, 8.0, 537, 400, 55),
)

CPU = Device(
    name="CPU",
    vendor="cpu",
    # One core of a current server: 32 fp32 operations a cycle (two 256-bit multiply-adds) at 3 GHz
    # are its peak; bf16 runs no faster without AMX.
    peak_bf16=96e9,
    matmul_bf16=30e9,
    matmul_fp8=30e9,
    matmul_fp32=30e9,
    memory=8 * GIB,
    attention=30e9,
    sustained=1.0,
    hbm=8e9,
    link=1.5e9,
    network=1.0e9,  # gloo over TCP
    pcie=8e9,
    link_latency=300e-6,
    network_latency=400e-6,
    per_node=1,
    launch_factor=2.0,
)

# First match wins: longer, more exact words stand before shorter ones. `{n}` is filled by memory.
_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"gb300", ("GB300-278GB",)),
    (r"gb200", ("GB200-186GB",)),
    (r"gh200", ("GH200-96GB",)),
    (r"\bb300(?!\d)", ("B300-270GB",)),
    (r"\bb200(?!\d)", ("B200-180GB",)),
    (r"\bh200(?!\d)", ("H200-141GB",)),
    (r"\bh800(?!\d)", ("H800-80GB",)),
    (r"\bh20\b", ("H20-96GB",)),
    (r"\bh100.*nvl\b|\bh100-nvl-94", ("H100-NVL-94GB",)),
    (r"\bh100.*pcie|pcie.*h100", ("H100-PCIe-80GB",)),
    (r"\bh100(?!\d)", ("H100-80GB", "H100-96GB")),
    (r"\ba800(?!\d)", ("A800-80GB",)),
    (r"\ba100.*pcie|pcie.*a100", ("A100-PCIe-80GB", "A100-PCIe-40GB")),
    (r"tesla-a100$", ("A100-40GB",)),  # as one cloud names the smaller one, without its size
    (r"\ba100(?!\d)", ("A100-80GB", "A100-40GB")),
    (r"\bv100(?!\d)", ("V100-32GB", "V100-16GB")),
    (r"\bl40s", ("L40S-48GB",)),
    (r"\bl40\b", ("L40-48GB",)),
    (r"\bl4\b", ("L4-24GB",)),
    (r"a6000", ("A6000-48GB",)),
    (r"\ba10g?\b", ("A10-24GB",)),
    (r"4090", ("RTX4090-24GB",)),
    (r"3090", ("RTX3090-24GB",)),
    (r"\bt4\b", ("T4-16GB",)),
    (r"mi355", ("MI355X-288GB",)),
    (r"mi350", ("MI355X-288GB",)),
    (r"mi325", ("MI325X-256GB",)),
    (r"mi300a", ("MI300A-128GB",)),
    (r"mi300", ("MI300X-192GB",)),
    (r"mi250", ("MI250-64GB",)),
)
_BY_NAME = {device.name: device for device in DEVICES}
_MEMORY = re.compile(r"(\d{2,3})\s*-?\s*g(?:i?b)?\b")


@lru_cache(maxsize=1024)
def find_device(text: str) -> Device | None:
    """Return the device that free text names (`NVIDIA-A100-SXM4-80GB`, `8x H100 PCIe`), or None.

    A memory size in the text picks among variants of one chip (A100 40 and 80 GB, H100 80 and 96).
    """
    # A count may stand before the name: `8xH100`, `16 × A100-80GB`.
    bare = re.sub(r"(?<![\w-])\d+\s*[x×*]\s*(?=[a-z])", "", text.strip().lower())
    lowered = re.sub(r"[_\s/(]+", "-", bare)
    if lowered == "cpu" or lowered.startswith("cpu-"):
        return CPU
    for pattern, names in _WORDS:
        if re.search(pattern, lowered):
            return _nearest(tuple(_BY_NAME[name] for name in names), lowered)
    return None


def cpu_device(*, cpus: int, memory: int | None = None) -> Device:
    """Return a process on `cpus` cores as a device (rates scale with the cores)."""
    return replace(
        CPU,
        peak_bf16=CPU.peak_bf16 * cpus,
        matmul_bf16=CPU.matmul_bf16 * cpus,
        matmul_fp8=CPU.matmul_fp8 * cpus,
        matmul_fp32=CPU.matmul_fp32 * cpus,
        attention=CPU.attention * cpus,
        hbm=CPU.hbm * cpus,
        memory=memory or CPU.memory,
    )


def _nearest(variants: tuple[Device, ...], text: str) -> Device:
    found = _MEMORY.search(text)
    if found is None:
        return variants[0]
    printed = int(found.group(1)) * GIB
    return min(variants, key=lambda device: abs(device.memory - printed))
