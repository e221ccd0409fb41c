"""How often the kernel killed a process of this container for memory.

A rank that ends by SIGKILL may have been killed by anybody; the counter of the control group tells
whether it was the out-of-memory killer.
"""

from pathlib import Path

# Inside a container its own control group is mounted at the root (version 2).
EVENTS = Path("/sys/fs/cgroup/memory.events")


def kills(events: Path = EVENTS) -> int:
    """Return the number of kills so far, 0 where the kernel does not tell."""
    try:
        lines = events.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
