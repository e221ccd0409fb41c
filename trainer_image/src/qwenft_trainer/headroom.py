"""How much more memory this container's processes may take, as the kernel tells it."""

import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> float:
    """Return the bytes that are free on the machine and within the container's limit.

    The file cache counts as free: it makes way. Infinite where the kernel tells nothing.
    """
    return min(_of_machine(meminfo), _of_container(cgroup))


def _of_machine(meminfo: Path) -> float:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(meminfo), re.MULTILINE)
    return float("inf") if found is None else 1024.0 * int(found[1])


def _of_container(cgroup: Path) -> float:
    limit, used = _text(cgroup / "memory.max").strip(), _text(cgroup / "memory.current").strip()
    if not limit.isdigit() or not used.isdigit():
        return float("inf")
    cache = re.search(r"^inactive_file (\d+)", _text(cgroup / "memory.stat"), re.MULTILINE)
    return max(0.0, float(limit) - int(used) + (0 if cache is None else int(cache[1])))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
