"""etcd, API server, controller manager, scheduler and name server, as processes of the host.

They listen on loopback and on the cluster's bridge only. etcd keeps its data in memory: the cluster
does not outlive ``down``, and deletes on disk are slow.
"""

from __future__ import annotations

import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedded import configuration, network, processes
from embedded.layout import Layout
from embedded.stages import StageError, direct_environment, wait_until

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")
CLIENTS = ("admin", "controller-manager", "scheduler", "proxy", "coredns")


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlPlane:
    """The control plane of the one embedded cluster."""

    layout: Layout
    programs: dict[str, Path]
    loss: configuration.NodeLoss

    def command(self, component: str) -> list[str | Path]:
        """Return a component's command line."""
        certificates = self.layout.certificates
        flags: dict[str, Callable[[], list[str]]] = {
            "etcd": lambda: configuration.etcd_flags(etcd_data(self.layout)),
            "kube-apiserver": lambda: configuration.apiserver_flags(certificates, self.loss),
            "kube-controller-manager": lambda: configuration.controller_manager_flags(
                certificates, self.loss
            ),
            "kube-scheduler": lambda: configuration.scheduler_flags(certificates),
            "coredns": lambda: ["-conf", str(self.layout.run / "Corefile")],
        }
        program = "server" if component == "etcd" else component
        return [self.programs[program], *flags[component]()]


def etcd_data(layout: Layout) -> Path:
    """Return the folder, in memory, of the cluster's objects; it is made for root alone."""
    return Path(f"/dev/shm/qwenft-{layout.mark}-etcd")  # noqa: S108


def write_kubeconfigs(layout: Layout, clients: tuple[str, ...]) -> None:
    """Write each client's kubeconfig, the administrator's also in the run folder."""
    for client in clients:
        file = layout.certificates / f"{client}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(configuration.kubeconfig(layout.certificates, client), encoding="utf-8")
    shutil.copy(layout.certificates / "admin.kubeconfig", layout.kubeconfig)


def answers(certificates: Path, path: str = "/readyz") -> bool:
    """Whether the API server says yes at ``path``."""
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    context.load_cert_chain(certificates / "admin.crt", certificates / "admin.key")
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with direct.open(f"{network.API_SERVER}{path}", timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def start_component(plane: ControlPlane, component: str) -> None:
    """Start one component and record its id."""
    log = plane.layout.logs / f"{component}.log"
    started = processes.start(
        component, plane.command(component), log=log, environment=direct_environment()
    )
    processes.record(plane.layout.processes, started)


def start(plane: ControlPlane) -> None:
    """Start etcd and the API server, wait until it is ready, then start what watches it."""
    data = etcd_data(plane.layout)
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    (plane.layout.run / "Corefile").write_text(
        configuration.corefile(plane.layout.certificates), encoding="utf-8"
    )
    for component in ("etcd", "kube-apiserver"):
        start_component(plane, component)
    wait_until(
        lambda: _still_there(plane) and answers(plane.layout.certificates),
        seconds=60,
        what="the API server's readiness",
        log=plane.layout.logs / "kube-apiserver.log",
    )
    for component in ("kube-controller-manager", "kube-scheduler"):
        start_component(plane, component)


def names_are_known() -> bool:
    """Whether the name server has read every Service and pod there is."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{network.DNS_READY}/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _still_there(plane: ControlPlane) -> bool:
    for component in ("etcd", "kube-apiserver"):
        process = processes.find(plane.layout.processes, component)
        if process is None or not processes.alive(process):
            log = plane.layout.logs / f"{component}.log"
            raise StageError(
                f"{component} ended", log=log, remedy="is its port taken? read the log"
            )
    return True


def is_running(layout: Layout) -> bool:
    """Whether every component runs and the API server is ready."""
    found = [processes.find(layout.processes, component) for component in COMPONENTS]
    running = all(process is not None and processes.alive(process) for process in found)
    return running and answers(layout.certificates)


def stop(layout: Layout) -> None:
    """Stop the components, the API server before its storage, and drop the storage."""
    for component in reversed(COMPONENTS):
        process = processes.find(layout.processes, component)
        if process is not None:
            processes.stop(process)
            processes.forget(layout.processes, component)
    shutil.rmtree(etcd_data(layout), ignore_errors=True)
