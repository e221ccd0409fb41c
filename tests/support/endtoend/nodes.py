"""Losing the embedded cluster's nodes on purpose, and having them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from demo.platforms import Embedded
from embedded.cluster import Cluster
from endtoend.bench import Bench

__all__ = ["Nodes", "launchers_of", "processes_of", "rank_of"]


class Nodes:
    """The nodes of the embedded cluster; those that were killed are known."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._killed: list[str] = []
        self._amends: list[Callable[[], object]] = []

    def kill(self, node: str) -> None:
        """Lose a node at once, as a power cut would."""
        self._cluster.stop_node(_index(node))
        self._killed.append(node)

    def cut(self, node: str) -> None:
        """Cut a node off the network: everything on it goes on, unseen."""
        self._cluster.cut_link(_index(node))
        self._amends.append(lambda: self._cluster.join_link(_index(node)))

    def mute(self, node: str) -> None:
        """Kill a node's kubelet: its containers go on, and reach everything."""
        self._cluster.stop_kubelet(_index(node))
        self._amends.append(lambda: self._cluster.start_kubelet(_index(node)))

    def cordon(self, node: str) -> None:
        """Let nothing new start on a node until :meth:`uncordon`."""
        self._bench.kubectl("cordon", node)
        self._amends.append(lambda: self._bench.kubectl("uncordon", node))

    def restore(self) -> None:
        """Undo whatever was done, and wait until all nodes are ready."""
        while self._amends:
            self._amends.pop()()
        self._bench.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")

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


def processes_of(uid: str, attempt: int) -> tuple[int, ...]:
    """Return the ranks of a run's attempt among this machine's processes, whoever watches them."""
    return tuple(int(entry.name) for entry in _entries(uid, attempt) if _is_rank(entry))


def launchers_of(uid: str, attempt: int, *, node_rank: int) -> tuple[int, ...]:
    """Return what else runs in one pod of a run's attempt: its launcher."""
    mark = f"PET_NODE_RANK={node_rank}".encode()
    return tuple(
        int(entry.name)
        for entry in _entries(uid, attempt)
        if mark in _environment(entry) and not _is_rank(entry)
    )


def rank_of(pid: int) -> int:
    """Return a rank's number; what the kernel shows of a fork's environment is its launcher's."""
    entry = Path(f"/proc/{pid}")
    found = dict(each.partition(b"=")[::2] for each in _environment(entry))
    local = int((entry / "comm").read_text().rpartition("-")[2])
    return int(found[b"PET_NODE_RANK"]) * int(found[b"PET_NPROC_PER_NODE"]) + local


def _entries(uid: str, attempt: int) -> Iterator[Path]:
    marks = {f"QWENFT_UID={uid}".encode(), f"QWENFT_ATTEMPT={attempt}".encode()}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and marks <= _environment(entry):
            yield entry


def _is_rank(entry: Path) -> bool:
    try:
        return (entry / "comm").read_text().startswith("qwenft-rank")
    except OSError:
        return False


def _environment(entry: Path) -> set[bytes]:
    try:
        return set((entry / "environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


def _index(node: str) -> int:
    return int(node.removeprefix("node-"))
