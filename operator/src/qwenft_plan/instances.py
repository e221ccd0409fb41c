"""How fast the nodes of the large clouds reach each other, by instance type.

Neither vendor of accelerators labels a node with its network, but every cloud labels it with its
instance type, and prints for it the bandwidth. Gigabits a second, one way, of all network cards
that accelerators may use together. Adding a type is adding a row.
"""

from __future__ import annotations

__all__ = ["INSTANCE_GBITS", "gigabits"]

INSTANCE_GBITS = {
    # Amazon EC2, accelerated computing, "network bandwidth".
    "p3.8xlarge": 10,
    "p3.16xlarge": 25,
    "p3dn.24xlarge": 100,
    "p4d.24xlarge": 400,
    "p4de.24xlarge": 400,
    "p5.4xlarge": 100,
    "p5.48xlarge": 3200,
    "p5e.48xlarge": 3200,
    "p5en.48xlarge": 3200,
    "p6-b200.48xlarge": 3200,
    "p6-b300.48xlarge": 6400,
    "g4dn.12xlarge": 50,
    "g4dn.metal": 100,
    "g5.12xlarge": 40,
    "g5.24xlarge": 50,
    "g5.48xlarge": 100,
    "g6.12xlarge": 40,
    "g6.24xlarge": 50,
    "g6.48xlarge": 100,
    "g6e.12xlarge": 100,
    "g6e.24xlarge": 200,
    "g6e.48xlarge": 400,
    # Google Compute Engine, GPU machine types, "maximum network bandwidth" of the GPUs' own cards.
    "a2-highgpu-8g": 100,
    "a2-megagpu-16g": 100,
    "a2-ultragpu-8g": 100,
    "a3-highgpu-8g": 800,
    "a3-megagpu-8g": 1600,
    "a3-ultragpu-8g": 3200,
    "a4-highgpu-8g": 3200,
    "g2-standard-48": 50,
    "g2-standard-96": 100,
    # Microsoft Azure, ND series: one InfiniBand card a GPU; NC series: Ethernet.
    "standard_nd96asr_v4": 1600,
    "standard_nd96amsr_a100_v4": 1600,
    "standard_nd96isr_h100_v5": 3200,
    "standard_nd96isr_h200_v5": 3200,
    "standard_nd96isr_mi300x_v5": 3200,
    "standard_nc24ads_a100_v4": 20,
    "standard_nc48ads_a100_v4": 40,
    "standard_nc96ads_a100_v4": 80,
    "standard_nc40ads_h100_v5": 40,
    "standard_nc80adis_h100_v5": 80,
    # Oracle Cloud, bare metal in a cluster network.
    "bm.gpu4.8": 1600,
    "bm.gpu.a100-v2.8": 1600,
    "bm.gpu.h100.8": 3200,
    "bm.gpu.h200.8": 3200,
    "bm.gpu.b200.8": 3200,
    "bm.gpu.mi300x.8": 3200,
    "bm.gpu.l40s.4": 800,
}


def gigabits(instance: str) -> float | None:
    """Return the Gbit/s that a node of this instance type sends, None for a type not known."""
    found = INSTANCE_GBITS.get(instance.strip().lower())
    return None if found is None else float(found)
