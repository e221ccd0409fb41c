"""Ports for servers that are started later.

A port that the system gives to an outgoing connection cannot be listened on, and a control plane
makes thousands of them: a port from that range, free when it is chosen, may be taken when its
server starts. So these come from below it.
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

__all__ = ["free_ports"]

_LOWEST = 16384
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The ports of outgoing connections, first and last."""
_CHOICE = random.SystemRandom()
"""Not to be foreseen: test processes that choose side by side must choose differently."""


def free_ports(count: int = 1) -> list[int]:
    """Return so many different ports of loopback that nobody listens on."""
    highest = int(_RANGE.read_text("ascii").split()[0])
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = _CHOICE.randrange(_LOWEST, highest)
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue  # somebody listens there
            found.append(port)
    return found
