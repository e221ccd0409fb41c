"""A node: namespaces of its own, with containerd, kubelet and kube-proxy in them.

Killing the node's first process kills everything in it, its network port and its mounts: losing a
node is a real event. Its images, its kubelet's state and its pods' logs lie on disk and are there
when it comes back.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from embedded import cgroups, configuration, network, processes
from embedded.layout import Layout
from embedded.stages import direct_environment, run, wait_until

PAUSE_IMAGE = "qwenft.dev/pause:v1"
SERVICES = ("containerd", "kubelet", "kube-proxy")
_SERVING = b"Start streaming server"
"""The last that containerd's CRI plugin says before it takes requests."""
# Mount points that a node covers with its own; `up` makes those that this machine lacks, `down`
# removes them.
COVERED = ("/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods")


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One node of ``count``; ``index`` counts from 1."""

    index: int
    count: int
    layout: Layout
    loss: configuration.NodeLoss = configuration.QUICK

    @property
    def name(self) -> str:
        """The node's name in Kubernetes, and its host name."""
        return f"node-{self.index}"

    @property
    def group(self) -> str:
        """The control group that holds all its pods."""
        return f"qwenft-{self.layout.mark}-{self.name}"

    @property
    def folder(self) -> Path:
        """What the node keeps on disk."""
        return self.layout.node(self.name)

    def log(self, service: str) -> Path:
        """Return the log of one of its services."""
        return self.layout.logs / f"{self.name}.{service}.log"

    def process(self, service: str) -> processes.Process | None:
        """Return the record of one of its services, or of its ``init``."""
        return processes.find(self.layout.processes, f"{self.name}.{service}")


def reserved_mebibytes(total_kibibytes: int, count: int) -> int:
    """Return what each node withholds so that together they offer the memory once."""
    return total_kibibytes * (count - 1) // count // 1024


def _machine_kibibytes() -> int:
    first = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()[0]
    return int(first.split()[1])


def write_configuration(node: Node) -> None:
    """Write what the node's services read."""
    certificates = node.layout.certificates
    etc = node.folder / "etc"
    (etc / "cni").mkdir(parents=True, exist_ok=True)
    for place in ("kubelet", "pods", "containerd"):
        (node.folder / place).mkdir(exist_ok=True)
    reserved = reserved_mebibytes(_machine_kibibytes(), node.count)
    kubelet = configuration.kubelet(
        node.name,
        node.index,
        certificates,
        node.loss,
        group=node.group,
        reserved_mebibytes=reserved,
    )
    files = {
        "kubelet.json": kubelet,
        "proxy.json": configuration.proxy(certificates, node.name),
        "containerd.toml": configuration.containerd(
            node.folder / "containerd", etc / "cni", PAUSE_IMAGE
        ),
        "cni/10-pods.conflist": configuration.cni(node.index),
    }
    for name, text in files.items():
        (etc / name).write_text(text, encoding="utf-8")


def setup_script(node: Node) -> str:
    """Return the shell script that turns fresh namespaces into the node's."""
    folder = shlex.quote(str(node.folder))
    return "\n".join(
        [
            "set -eu",
            "mount --make-rprivate /",
            "mount -t tmpfs -o mode=755 tmpfs /run",
            "mount -t tmpfs -o mode=755 tmpfs /var/lib/cni",
            "mount -t tmpfs -o mode=755 tmpfs /var/log/containers",
            f"mount --bind {folder}/kubelet /var/lib/kubelet",
            f"mount --bind {folder}/pods /var/log/pods",
            "mount --make-rshared /",
            f"hostname {node.name}",
            network.inside_script(node.index, node.count),
            "",
        ]
    )


def inside(node: Node, command: list[str | Path]) -> list[str | Path]:
    """Return the command line that runs ``command`` in the node's namespaces."""
    init = node.process("init")
    if init is None:
        raise ProcessLookupError(f"{node.name} is not running")
    return ["nsenter", "-t", str(init.pid), "-m", "-n", "-p", "-u", "-i", *command]


def _all_alive(node: Node, services: tuple[str, ...]) -> bool:
    found = [node.process(service) for service in services]
    return all(process is not None and processes.alive(process) for process in found)


def is_running(node: Node) -> bool:
    """Whether the node's first process and all its services run."""
    return _all_alive(node, ("init", *SERVICES))


def ended_services(node: Node) -> tuple[str, ...]:
    """Return those of the node's services that were started and have ended."""
    found = ((service, node.process(service)) for service in SERVICES)
    return tuple(
        service
        for service, process in found
        if process is not None and not processes.alive(process)
    )


def _start_namespaces(node: Node, init: Path) -> None:
    """Start the first process, which holds the namespaces open and reaps what dies in them."""
    namespaces = [
        "--fork",
        "--kill-child",
        "--pid",
        "--mount-proc",
        "--mount",
        "--net",
        "--uts",
        "--ipc",
    ]
    outer = processes.start(
        f"{node.name}.outer", ["unshare", *namespaces, init], log=node.log("init")
    )
    processes.record(node.layout.processes, outer)
    inner = processes.await_child(outer.pid)
    # Until it has become `init`, its namespaces may still be in the making.
    wait_until(
        lambda: Path(f"/proc/{inner}/exe").readlink() == init.resolve(),
        seconds=10,
        what=f"the first process of {node.name}",
        log=node.log("init"),
        every=0.02,
    )
    processes.record(node.layout.processes, processes.identify(f"{node.name}.init", inner))


def start_service(node: Node, service: str, programs: dict[str, Path]) -> None:
    """Start one of the node's services and record its id."""
    etc = node.folder / "etc"
    commands: dict[str, list[str | Path]] = {
        "containerd": ["containerd", "--config", etc / "containerd.toml"],
        "kubelet": [
            programs["kubelet"],
            f"--config={etc}/kubelet.json",
            f"--kubeconfig={node.layout.certificates}/{node.name}.kubeconfig",
            f"--hostname-override={node.name}",
            f"--node-ip={network.node_address(node.index)}",
        ],
        "kube-proxy": [programs["kube-proxy"], f"--config={etc}/proxy.json"],
    }
    entered = processes.start(
        f"{node.name}.{service}",
        inside(node, commands[service]),
        log=node.log(service),
        environment=direct_environment(),
    )
    # nsenter stays outside and waits; the service is its child.
    service_id = processes.await_child(entered.pid)
    processes.record(
        node.layout.processes, processes.identify(f"{node.name}.{service}", service_id)
    )


def stop_service(node: Node, service: str, *, grace: float = 5.0) -> None:
    """Stop one of the node's services; its containers go on."""
    process = node.process(service)
    if process is not None:
        processes.stop(process, grace=grace)
        processes.forget(node.layout.processes, process.name)


def start(node: Node, programs: dict[str, Path]) -> None:
    """Start the node up to its containerd; one that has come so far is left alone."""
    if _all_alive(node, ("init", "containerd")):
        return
    stop(node)
    write_configuration(node)
    cgroups.create(node.group)
    _start_namespaces(node, programs["pause"])
    init = node.process("init")
    if init is None:
        raise ProcessLookupError(f"{node.name} ended at once; see {node.log('init')}")
    network.plug(node.index, init.pid)
    run(inside(node, ["sh", "-c", setup_script(node)]), log=node.log("init"))
    before = _length(node.log("containerd"))
    start_service(node, "containerd", programs)
    wait_until(
        lambda: answers(node) and _serves_kubelets(node, since=before),
        seconds=30,
        what=f"containerd of {node.name}",
        log=node.log("containerd"),
    )


def start_kubernetes(node: Node, programs: dict[str, Path]) -> None:
    """Start what makes the node one of the cluster: kubelet and kube-proxy."""
    for service in ("kubelet", "kube-proxy"):
        process = node.process(service)
        if process is None or not processes.alive(process):
            start_service(node, service, programs)


def answers(node: Node) -> bool:
    """Whether the node's containerd answers."""
    init = node.process("init")
    return (
        init is not None and Path(f"/proc/{init.pid}/root/run/containerd/containerd.sock").exists()
    )


def _serves_kubelets(node: Node, *, since: int) -> bool:
    """Whether containerd has said so in its log from that byte on; its socket is there earlier.

    A kubelet that asks in between is told "server is not initialized yet", and ends.
    """
    return _SERVING in node.log("containerd").read_bytes()[since:]


def _length(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def ctr(node: Node, *words: str | Path, log: Path | None = None) -> str:
    """Run ``ctr`` against the node's containerd, in the namespace that Kubernetes uses."""
    return run(inside(node, ["ctr", "--namespace", "k8s.io", *words]), log=log)


def stop(node: Node) -> None:
    """Kill the node at once, as a power cut would; what it keeps on disk stays."""
    outer = node.process("outer")
    init = node.process("init")
    for process in (outer, init):
        if process is not None:
            processes.stop(process, grace=0)
    for service in ("outer", "init", *SERVICES):
        processes.forget(node.layout.processes, f"{node.name}.{service}")
    network.unplug(node.index)
    cgroups.remove(node.group)
