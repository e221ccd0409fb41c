"""The whole cluster: ``up``, ``down``, its state, and the faults that tests cause on purpose."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from embedded import (
    archive,
    binaries,
    certificates,
    cgroups,
    configuration,
    control_plane,
    delivery,
    dns,
    images,
    network,
    node,
    processes,
    storage,
    versions,
)
from embedded.layout import Layout, exclusive
from embedded.node import Node
from embedded.stages import StageError, direct_environment, run, stage, wait_until

NODES = 2
_MADE = "made-folders.json"
_IDENTITY = "started-from.json"
_AGAIN = "run `make cluster-down`, then the same command again"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The embedded cluster of one cache folder."""

    layout: Layout
    loss: configuration.NodeLoss = configuration.QUICK

    @cached_property
    def programs(self) -> dict[str, Path]:
        """Every built program by name."""
        pins = versions.load()
        return {
            name: binaries.home(self.layout, product) / name
            for product in binaries.products(pins)
            for name in product.programs
        }

    @property
    def plane(self) -> control_plane.ControlPlane:
        """The control plane."""
        return control_plane.ControlPlane(
            layout=self.layout, programs=self.programs, loss=self.loss
        )

    def node(self, index: int) -> Node:
        """Return node ``index``, counting from 1."""
        return Node(index=index, count=NODES, layout=self.layout, loss=self.loss)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes."""
        return tuple(self.node(index) for index in range(1, NODES + 1))

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """Run kubectl as administrator and return its output; ``StageError`` where it fails."""
        command: list[str | Path] = [
            self.programs["kubectl"],
            f"--kubeconfig={self.layout.kubeconfig}",
            *words,
        ]
        return run(command, stdin=stdin, environment=direct_environment())

    def apply(self, objects: list[dict[str, object]]) -> None:
        """Apply objects, server-side."""
        listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        owner = "--field-manager=qwenft-embedded"
        self.kubectl("apply", "--server-side", "--force-conflicts", owner, "-f", "-", stdin=listing)

    def ready_nodes(self) -> frozenset[str]:
        """Return the names of the nodes that are Ready."""
        listing = json.loads(self.kubectl("get", "nodes", "-o", "json"))
        return frozenset(
            item["metadata"]["name"]
            for item in listing["items"]
            for condition in item["status"].get("conditions", ())
            if condition["type"] == "Ready" and condition["status"] == "True"
        )

    def stop_node(self, index: int) -> None:
        """Lose a node at once: everything on it dies, its port goes."""
        node.stop(self.node(index))

    def start_node(self, index: int) -> None:
        """Bring a lost node back."""
        returning = self.node(index)
        node.start(returning, self.programs)
        node.start_kubernetes(returning, self.programs)

    def stop_kubelet(self, index: int) -> None:
        """Kill a node's kubelet; its containers go on unwatched."""
        node.stop_service(self.node(index), "kubelet", grace=0)

    def start_kubelet(self, index: int) -> None:
        """Start a node's kubelet again."""
        node.start_kubernetes(self.node(index), self.programs)

    def cut_link(self, index: int) -> None:
        """Cut a node off the network; everything on it goes on."""
        network.set_link(index, up=False)

    def join_link(self, index: int) -> None:
        """Join a cut-off node again."""
        network.set_link(index, up=True)

    def recycle_volumes(self) -> tuple[str, ...]:
        """Empty the volumes whose claim was deleted and offer them again; return their names."""
        names = storage.released(json.loads(self.kubectl("get", "pv", "-o", "json")))
        for name in names:
            storage.empty(self.layout.volumes, name)
            self.kubectl("patch", "pv", name, "--patch", '{"spec": {"claimRef": null}}')
        return names


def is_healthy(cluster: Cluster) -> bool:
    """Whether every process runs, the API server is ready and so is every node."""
    if not control_plane.is_running(cluster.layout):
        return False
    if not all(node.is_running(each) for each in cluster.nodes):
        return False
    try:
        return len(cluster.ready_nodes()) == NODES
    except StageError:
        return False


def identity(cluster: Cluster) -> str:
    """Return what a running cluster was started from: its programs and its timings."""
    programs = sorted(str(path) for path in cluster.programs.values())
    return json.dumps({"programs": programs, "loss": repr(cluster.loss)}, indent=1)


def up(cluster: Cluster) -> None:
    """Bring the cluster up: build what is missing, reuse a healthy one, replace a half-dead one."""
    if os.geteuid() != 0:
        raise StageError(
            "the embedded cluster needs root", remedy="run as root, or set KUBECONFIG to a cluster"
        )
    with exclusive(cluster.layout):
        pins = versions.load()
        binaries.install_packages(cluster.layout, pins.packages)
        binaries.build_all(cluster.layout, pins)
        if not _repaired(cluster):
            _stop(cluster)
            _start(cluster)
        cluster.recycle_volumes()


def _repaired(cluster: Cluster) -> bool:
    """Whether the cluster that is there will do, after lost nodes were brought back."""
    started_from = cluster.layout.run / _IDENTITY
    if not started_from.exists() or started_from.read_text(encoding="utf-8") != identity(cluster):
        return False
    if not control_plane.is_running(cluster.layout):
        return False
    if is_healthy(cluster):
        return True
    try:
        with stage("bring lost nodes back"):
            for each in cluster.nodes:
                cluster.start_node(each.index)
                network.set_link(each.index, up=True)
            wait_until(lambda: _all_ready(cluster), seconds=60, what="readiness", every=0.3)
    except StageError as error:
        print(f"  {error.report()}\n  starting afresh", flush=True)
        return False
    return True


def _start(cluster: Cluster) -> None:
    try:
        _start_stages(cluster)
    except BaseException:
        # Whatever stopped it, nothing half made is left running.
        with contextlib.suppress(StageError):
            _stop(cluster)
        raise


def _start_stages(cluster: Cluster) -> None:
    layout = cluster.layout
    with stage("network, certificates"):
        network.load_modules()
        network.check_free()
        _fresh_state(cluster)
        network.create_bridge()
    with stage("control plane", remedy=_AGAIN):
        control_plane.start(cluster.plane)
    with stage("nodes", remedy=_AGAIN):
        for each in cluster.nodes:
            node.start(each, cluster.programs)
            _import_pause(each, cluster.programs["pause"])
            node.start_kubernetes(each, cluster.programs)
        cluster.apply([*dns.objects(), *storage.objects(layout.volumes)])
        # After its rights: refused a list, it asks again only half a minute later, and until then
        # no name is known.
        control_plane.start_component(cluster.plane, "coredns")
        wait_until(
            lambda: _all_ready(cluster),
            seconds=120,
            what="the readiness of both nodes",
            log=cluster.node(1).log("kubelet"),
            every=0.3,
        )
    with stage("default service account"):
        wait_until(lambda: _has_account(cluster), seconds=60, what="the default service account")
    (layout.run / _IDENTITY).write_text(identity(cluster), encoding="utf-8")


def _all_ready(cluster: Cluster) -> bool:
    """Whether every node is Ready; ``StageError`` as soon as one of their services has ended."""
    for each in cluster.nodes:
        for service in node.ended_services(each):
            raise StageError(f"{service} of {each.name} ended", log=each.log(service))
    return control_plane.names_are_known() and len(cluster.ready_nodes()) == NODES


def _has_account(cluster: Cluster) -> bool:
    names = cluster.kubectl("get", "serviceaccounts", "--namespace=default", "-o", "name")
    return "serviceaccount/default" in names.splitlines()


def _fresh_state(cluster: Cluster) -> None:
    """Forget the last cluster but for the images on its nodes."""
    layout = cluster.layout
    shutil.rmtree(layout.volumes, ignore_errors=True)
    for service in (*control_plane.COMPONENTS, *(f"{each.name}.*" for each in cluster.nodes)):
        for log in layout.logs.glob(f"{service}.log"):
            log.unlink()
    for each in cluster.nodes:
        for place in ("kubelet", "pods", "etc"):
            shutil.rmtree(each.folder / place, ignore_errors=True)
    names = tuple(each.name for each in cluster.nodes)
    certificates.make_all(layout.certificates, names)
    control_plane.write_kubeconfigs(layout, (*control_plane.CLIENTS, *names))
    storage.make_folders(layout.volumes)
    made = [place for place in node.COVERED if not Path(place).is_dir()]
    (layout.run / _MADE).write_text(json.dumps(made), encoding="utf-8")
    for place in made:
        Path(place).mkdir(parents=True)


def _import_pause(each: Node, program: Path) -> None:
    """Give a node the image of every pod's first container."""
    file = each.folder / "pause.tar"
    config, layer = archive.one_program(program)
    archive.write(file, node.PAUSE_IMAGE, config, (layer,))
    node.ctr(each, "images", "import", file, log=each.log("images"))
    file.unlink()


def provide_images(cluster: Cluster) -> None:
    """Build the images that changed and give them to every node of the running cluster."""
    with exclusive(cluster.layout):
        pins = versions.load()
        binaries.install_packages(cluster.layout, pins.packages)
        images.build_all(cluster.layout, pins)
        _deliver(cluster)


def _deliver(cluster: Cluster) -> None:
    if not all(node.is_running(each) for each in cluster.nodes):
        raise StageError("the images are built, but no cluster runs", remedy="run the verb `up`")
    storage_folder = cluster.layout.images / "storage"
    names = (images.BASE, *(recipe.name for recipe in images.RECIPES))
    built = [images.stored(storage_folder, name) for name in names]
    missing = [
        (each, image)
        for each in cluster.nodes
        for image in built
        if delivery.delivered(each).get(image.name) != image.digest
    ]
    if missing:
        with stage("images to the nodes", remedy=_AGAIN):
            for each, image in missing:
                delivery.deliver(each, image)


def down(cluster: Cluster) -> None:
    """End every process by its recorded id and undo all but the run folder."""
    with exclusive(cluster.layout):
        _stop(cluster)


def _stop(cluster: Cluster) -> None:
    layout = cluster.layout
    if not processes.recorded(layout.processes) and not network.bridge_exists():
        return
    with stage("stop the cluster"):
        for each in cluster.nodes:
            node.stop(each)
        control_plane.stop(layout)
        network.delete_bridge()
        for each in cluster.nodes:
            cgroups.remove(each.group)
        made = layout.run / _MADE
        for place in json.loads(made.read_text()) if made.exists() else ():
            with contextlib.suppress(OSError):
                Path(place).rmdir()
        made.unlink(missing_ok=True)
        (layout.run / _IDENTITY).unlink(missing_ok=True)
        for entry in layout.processes.glob("*"):
            entry.unlink()
