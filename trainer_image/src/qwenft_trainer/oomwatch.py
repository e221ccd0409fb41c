"""How often the kernel killed a process of this container for memory.

A rank that ends by SIGKILL may have been killed by anybody; the counter of the control group tells
whether it was the out-of-memory killer.
"""

from pathlib import Path

# Inside a container its own control group is mounted there: version 2, and version 1.
COUNTERS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)


def kills(*counters: Path) -> int:
    """Return the number of kills so far, 0 where the kernel does not tell."""
    return sum(_kills(each) for each in counters or COUNTERS)


def _kills(counter: Path) -> int:
    try:
        lines = counter.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
