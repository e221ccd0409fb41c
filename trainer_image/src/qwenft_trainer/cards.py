"""Whether this container can use the network cards that it was given.

RDMA pins the memory that it sends from. Pod Security's "restricted" forbids the capability
IPC_LOCK, so that the runtime's own limit counts, which is small where nobody raised it; NCCL then
fails at its first connection instead of taking another way.
"""

import resource
from collections.abc import Mapping
from pathlib import Path

DEVICES = Path("/dev/infiniband")
"""Where device plugins put the cards, those of EFA too."""
CAPABILITIES = Path("/proc/self/status")
_IPC_LOCK = 14
_CHOSEN = ("NCCL_NET", "NCCL_IB_DISABLE", "NCCL_NET_PLUGIN")

UNLIMITED = resource.RLIM_INFINITY


def way_around(
    environ: Mapping[str, str],
    *,
    devices: Path = DEVICES,
    limit: int | None = None,
    capabilities: Path = CAPABILITIES,
) -> tuple[dict[str, str], str]:
    """Return the variables that keep NCCL off cards which it cannot use, and what to say of it.

    Both are empty where there are no cards, where they work, or where somebody has chosen already.
    ``limit``: bytes that may be locked; None asks the system.
    """
    if not devices.is_dir() or any(name in environ for name in _CHOSEN):
        return {}, ""
    if limit is None:
        limit = _raised_limit()
    if limit == UNLIMITED or _may_lock(capabilities):
        return {}, ""
    message = (
        f"network: this container has RDMA cards, but may lock only {limit // 1024:,} KiB of "
        "memory; going over TCP. To use them, set LimitMEMLOCK=infinity for the container runtime"
    )
    return {"NCCL_NET": "Socket"}, message


def _raised_limit() -> int:
    """Raise the limit as far as this process may, and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
    return most


def _may_lock(status: Path) -> bool:
    """Return whether the process has the capability IPC_LOCK."""
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _IPC_LOCK & 1)
