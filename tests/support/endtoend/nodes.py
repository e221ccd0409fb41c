"""Losing the embedded cluster's nodes on purpose, and having them back."""

from __future__ import annotations

from demo.platforms import Embedded
from embedded.cluster import Cluster
from endtoend.bench import Bench

__all__ = ["Nodes"]


class Nodes:
    """The nodes of the embedded cluster; those that were killed are known."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._killed: list[str] = []

    def kill(self, node: str) -> None:
        """Lose a node at once, as a power cut would."""
        self._cluster.stop_node(_index(node))
        self._killed.append(node)

    def revive(self) -> None:
        """Bring back what was killed and wait until it is ready."""
        while self._killed:
            node = self._killed[-1]
            self._cluster.start_node(_index(node))
            words = ["wait", "--for=condition=Ready", f"node/{node}", "--timeout=120s"]
            self._bench.kubectl(*words)
            self._killed.pop()

    @property
    def _cluster(self) -> Cluster:
        assert isinstance(self._bench.platform, Embedded)
        return self._bench.platform.cluster


def _index(node: str) -> int:
    return int(node.removeprefix("node-"))
