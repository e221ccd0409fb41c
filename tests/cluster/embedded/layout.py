"""Where the embedded cluster keeps its files: one cache folder, outside the checkout.

``bin/`` and ``images/`` outlive the cluster (builds, by version); ``embedded/`` is the run folder:
it holds the state of the cluster, and ``down`` leaves it as the only trace.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The folders of one embedded cluster."""

    cache: Path

    @property
    def mark(self) -> str:
        """Six hex digits that tell this cluster's leavings outside the cache from another's."""
        return hashlib.sha256(str(self.cache).encode()).hexdigest()[:6]

    @property
    def binaries(self) -> Path:
        """Built programs, one folder a product and version."""
        return self.cache / "bin"

    @property
    def images(self) -> Path:
        """The image builder's own storage and the base image."""
        return self.cache / "images"

    @property
    def run(self) -> Path:
        """The state of the cluster."""
        return self.cache / "embedded"

    @property
    def processes(self) -> Path:
        """One record a started process."""
        return self.run / "processes"

    @property
    def logs(self) -> Path:
        """One log a process and a stage."""
        return self.run / "logs"

    @property
    def certificates(self) -> Path:
        """Keys, certificates and one kubeconfig a client."""
        return self.run / "certificates"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.run / "kubeconfig"

    @property
    def volumes(self) -> Path:
        """The folders behind the persistent volumes, seen by every node."""
        return self.run / "volumes"

    def node(self, name: str) -> Path:
        """Return the folder of one node: container images, kubelet state, pod logs."""
        return self.run / "nodes" / name


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """Hold the cache alone: a second command that changes the cluster or the images waits.

    The kernel lets go of the lock when its holder ends, however it ends.
    """
    layout.cache.mkdir(parents=True, exist_ok=True)
    with (layout.cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("  waiting for another command that holds the cache …", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def from_environment() -> Layout:
    """Take ``QWENFT_CACHE``, else ``~/.cache/qwenft``."""
    chosen = os.environ.get("QWENFT_CACHE", "")
    return Layout(cache=Path(chosen).resolve() if chosen else Path.home() / ".cache" / "qwenft")
