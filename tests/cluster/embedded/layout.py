"""Where the embedded cluster keeps its files: everything under one cache folder, outside the checkout.

``bin/`` and ``images/`` outlive the cluster (builds, by version); ``embedded/`` is the run folder: it holds
the state of the cluster, and ``down`` leaves it as the only trace.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The folders of one embedded cluster."""

    cache: Path

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
        """The folder of one node: container images, kubelet state, pod logs."""
        return self.run / "nodes" / name


def from_environment() -> Layout:
    """Take ``QWENFT_CACHE``, else ``~/.cache/qwenft``."""
    chosen = os.environ.get("QWENFT_CACHE", "")
    return Layout(cache=Path(chosen).resolve() if chosen else Path.home() / ".cache" / "qwenft")
