"""A second embedded cluster, in a network namespace of its own beside the one that others use.

Its addresses are those of the first without meeting it; its files, control groups and memory are
its own. So its nodes can be killed and it can be ended in a test, whoever uses the first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedded import binaries, cgroups, delivery, images, layout, processes, versions
from embedded.cluster import Cluster
from embedded.layout import Layout
from embedded.stages import run, wait_until

MODULES = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The second cluster; ``holder`` keeps its network namespace open."""

    holder: processes.Process
    cluster: Cluster

    def inside(self, *words: str | Path) -> list[str]:
        """Return the command line that runs something in the cluster's network."""
        return ["nsenter", "-t", str(self.holder.pid), "-n", *(str(word) for word in words)]

    def command(self, *verb: str) -> list[str]:
        """Return the command line of one verb of the embedded cluster."""
        return self.inside(sys.executable, "-m", "embedded", *verb)

    def environment(self) -> dict[str, str]:
        """Return what points the command line to this cluster."""
        cache = str(self.cluster.layout.cache)
        return {**os.environ, "QWENFT_CACHE": cache, "PYTHONPATH": str(MODULES)}

    def embedded(self, *verb: str) -> str:
        """Run one verb and return what it printed; ``StageError`` where it fails."""
        return run(self.command(*verb), environment=self.environment())

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """Run kubectl as administrator."""
        kubeconfig = f"--kubeconfig={self.cluster.layout.kubeconfig}"
        return run(self.inside(self.cluster.programs["kubectl"], kubeconfig, *words), stdin=stdin)

    def get(self, *words: str) -> Any:
        """Return an object, or a listing, as kubectl gives it."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects."""
        listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "-f", "-", stdin=listing)

    def python(self, pod: str, script: str) -> str:
        """Run a Python script in a pod and return what it printed."""
        return self.kubectl("exec", pod, "--", "python3", "-c", script).strip()

    def ready(self, node: str) -> str:
        """Return a node's Ready condition: ``True``, ``False`` or ``Unknown``."""
        conditions = self.get("node", node)["status"]["conditions"]
        return next(str(each["status"]) for each in conditions if each["type"] == "Ready")

    def await_ready(self, node: str, *values: str, seconds: float) -> None:
        """Wait until a node's Ready condition is one of these."""
        wait_until(
            lambda: self.ready(node) in values,
            seconds=seconds,
            what=f"{node} Ready={'/'.join(values)}",
            every=0.3,
        )

    def leavings(self) -> list[str]:
        """Return what is left of the cluster outside its run folder, in words."""
        place = self.cluster.layout
        left = [f"record of {process.name}" for process in processes.recorded(place.processes)]
        left += [f"process {pid}" for pid in self._processes()]
        groups = (each.group for each in self.cluster.nodes)
        left += [str(path) for group in groups for path in cgroups.folders(group) if path.exists()]
        left += [str(path) for path in Path("/dev/shm").glob(f"qwenft-{place.mark}-*")]  # noqa: S108
        links = json.loads(run(self.inside("ip", "-json", "link")))
        return left + [each["ifname"] for each in links if each["ifname"] != "lo"]

    def _processes(self) -> list[int]:
        """Return the ids of living processes whose command line names this cluster's cache."""
        needle = f"{self.cluster.layout.cache}/".encode()
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and needle in _command_line(entry)
        ]


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def prepare(first: Layout) -> Layout:
    """Return the second cluster's cache: its programs are those of the first, built if need be."""
    pins = versions.load()
    with layout.exclusive(first):
        binaries.install_packages(first, pins.packages)
        binaries.build_all(first, pins)
        images.build_base(first, pins)
    second = Layout(cache=first.cache / "beside")
    second.cache.mkdir(exist_ok=True)
    if not second.binaries.exists():
        second.binaries.symlink_to(first.binaries)
    return second


def hold(place: Layout) -> Beside:
    """Open a network namespace for the cluster."""
    holder = processes.start(
        "holder",
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo open && exec sleep infinity"],
        log=place.cache / "holder.log",
    )
    log = place.cache / "holder.log"
    wait_until(lambda: "open" in log.read_text(), seconds=10, what="a network namespace", log=log)
    log.unlink()
    return Beside(holder=holder, cluster=Cluster(layout=place))


def give_base(beside: Beside, first: Layout) -> None:
    """Give both nodes the base image, a Python with nothing else."""
    image = images.stored(first.images / "storage", images.BASE)
    for node in beside.cluster.nodes:
        delivery.deliver(node, image)


def interrupted(beside: Beside, after: str) -> tuple[int, str]:
    """Begin ``up``, press Ctrl-C once it has announced ``after``; return exit code and output."""
    started = subprocess.Popen(
        beside.command("up"),
        env=beside.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Where the tests run in the background, Ctrl-C is ignored by all that they start.
        preexec_fn=_hear_interrupts,  # noqa: PLW1509 - no threads run here
    )
    assert started.stdout is not None
    seen = b""
    while after.encode() not in seen:
        more = os.read(started.stdout.fileno(), 4096)
        assert more, seen.decode()
        seen += more
    os.killpg(started.pid, signal.SIGINT)
    rest, _ = started.communicate(timeout=60)
    return started.returncode, (seen + rest).decode()


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
