"""The cluster that the demo runs on: the user's own, kind, or the embedded one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import yaml

from embedded import images as recipes
from embedded import layout
from embedded.cluster import Cluster, provide_images, up
from embedded.stages import StageError, direct_environment, run, stage

ROOT = Path(__file__).resolve().parents[3]
_KIND_CLUSTER = "qwenft"
_DOCKER_TIMEOUT = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """The two images as the cluster knows them; a build changes when the content does."""

    operator: str
    trainer: str
    operator_build: str
    trainer_build: str


class Platform(Protocol):
    """A cluster with the tools to work on it."""

    @property
    def title(self) -> str:
        """What to call it."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""

    def tool(self, name: str) -> str:
        """Return the path of ``kubectl`` or ``helm``."""

    def up(self) -> None:
        """Make sure that the cluster runs."""

    def images(self) -> Images:
        """Make sure that the nodes have the images, or can fetch them."""

    def place_of(self, claim: str, namespace: str) -> str:
        """Return where a claim's files lie on this machine, empty when they do not."""


def choose() -> Platform:
    """Return the cluster of ``KUBECONFIG``, else kind where Docker answers, else our own."""
    # Of a list of files the first is the one that kubectl writes to.
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    own = layout.from_environment()
    if named and Path(named).resolve() != own.kubeconfig.resolve():
        return Given(kubeconfig=Path(named))
    if _docker_answers():
        return Kind(folder=own.cache / "kind")
    return Embedded(cluster=Cluster(layout=own))


def kubectl(platform: Platform, *words: str, stdin: str | None = None) -> str:
    """Run kubectl as administrator and return what it printed; ``StageError`` where it fails."""
    command = [platform.tool("kubectl"), f"--kubeconfig={platform.kubeconfig}", *words]
    return run(command, stdin=stdin, environment=direct_environment())


def reach_directly(kubeconfig: Path) -> None:
    """Let this process reach a cluster of this machine without a proxy."""
    document = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    host = urlsplit(document["clusters"][0]["cluster"]["server"]).hostname or ""
    for name in ("no_proxy", "NO_PROXY"):
        known = [part for part in os.environ.get(name, "").split(",") if part]
        os.environ[name] = ",".join(dict.fromkeys([*known, host]))


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(
            ["docker", "info"], capture_output=True, timeout=_DOCKER_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _on_path(name: str, remedy: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise StageError(f"{name} is not installed", remedy=remedy)
    return found


@dataclass(frozen=True)
class Embedded:
    """The cluster that this repository builds from package registries."""

    cluster: Cluster

    @property
    def title(self) -> str:
        """What to call it."""
        return "embedded cluster, two nodes"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.cluster.layout.kubeconfig

    def tool(self, name: str) -> str:
        """Return the program that was built for this cluster."""
        return str(self.cluster.programs[name])

    def up(self) -> None:
        """Build what is missing and bring the cluster up."""
        up(self.cluster)
        reach_directly(self.kubeconfig)

    def images(self) -> Images:
        """Build the images where they changed and give them to the nodes."""
        provide_images(self.cluster)
        storage = self.cluster.layout.images / "storage"
        digests = [
            recipes.stored(storage, recipe.name).digest
            for recipe in (recipes.OPERATOR, recipes.TRAINER)
        ]
        return Images(
            operator=recipes.OPERATOR.name,
            trainer=recipes.TRAINER.name,
            operator_build=digests[0],
            trainer_build=digests[1],
        )

    def place_of(self, claim: str, namespace: str) -> str:
        """Return the folder behind the claim."""
        listing = kubectl(self, "get", "pvc", claim, "-n", namespace, "-o", "json")
        volume = str(json.loads(listing)["spec"].get("volumeName") or "")
        return str(self.cluster.layout.volumes / volume) if volume else ""


@dataclass(frozen=True, kw_only=True)
class Given:
    """The user's own cluster, which fetches ``OPERATOR_IMAGE`` and ``TRAINER_IMAGE`` by itself."""

    kubeconfig: Path

    @property
    def title(self) -> str:
        """What to call it."""
        return f"cluster of {self.kubeconfig}"

    def tool(self, name: str) -> str:
        """Return the program on the path."""
        return _on_path(name, f"install {name}, or unset KUBECONFIG to use the embedded cluster")

    def up(self) -> None:
        """Ask the cluster for its version."""
        with stage("cluster", remedy="check KUBECONFIG, or unset it to use the embedded cluster"):
            kubectl(self, "version")

    def images(self) -> Images:
        """Take the images from the environment: this cluster cannot see this machine's."""
        named = {key: os.environ.get(key, "") for key in ("OPERATOR_IMAGE", "TRAINER_IMAGE")}
        missing = [key for key, value in named.items() if not value]
        if missing:
            raise StageError(
                f"{' and '.join(missing)} not set: your cluster must fetch the images itself",
                remedy="build and push the two Dockerfiles, then name both images",
            )
        operator, trainer = named["OPERATOR_IMAGE"], named["TRAINER_IMAGE"]
        return Images(
            operator=operator, trainer=trainer, operator_build=operator, trainer_build=trainer
        )

    def place_of(self, claim: str, namespace: str) -> str:  # noqa: ARG002 - it lies in the cluster
        """Return nothing: the files lie in the cluster."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind cluster of two workers that share a folder; the tests do not exercise it."""

    folder: Path

    @property
    def title(self) -> str:
        """What to call it."""
        return "kind, two workers"

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig of its own: the user's is left alone."""
        return self.folder / "kubeconfig"

    def tool(self, name: str) -> str:
        """Return the program on the path."""
        return _on_path(name, f"install {name}: https://kubernetes.io/docs/tasks/tools/")

    def up(self) -> None:
        """Create the cluster unless it is there."""
        with stage(
            "kind cluster", remedy="install kind, or stop Docker to use the embedded cluster"
        ):
            self.folder.mkdir(parents=True, exist_ok=True)
            kind, log = self.tool("kind"), self.folder / "kind.log"
            if _KIND_CLUSTER not in run([kind, "get", "clusters"]).split():
                self._create(kind, log)
            flags = ["--name", _KIND_CLUSTER, "--kubeconfig", str(self.kubeconfig)]
            run([kind, "export", "kubeconfig", *flags], log=log)
            reach_directly(self.kubeconfig)

    def _create(self, kind: str, log: Path) -> None:
        shared = self.folder / "volume"
        shared.mkdir(exist_ok=True)
        shared.chmod(0o777)
        mount = [{"hostPath": str(shared), "containerPath": "/shared"}]
        nodes = [{"role": "control-plane"}, *({"role": "worker", "extraMounts": mount},) * 2]
        document = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": nodes}
        (self.folder / "kind.json").write_text(json.dumps(document), encoding="utf-8")
        flags = ["--name", _KIND_CLUSTER, "--config", str(self.folder / "kind.json")]
        run([kind, "create", "cluster", *flags], log=log)
        kubectl(self, "apply", "-f", "-", stdin=json.dumps(_shared_volume()))

    def images(self) -> Images:
        """Build with Docker and load into the nodes."""
        names = {"operator": "qwenft.dev/operator:dev", "trainer_image": "qwenft.dev/trainer:dev"}
        log = self.folder / "images.log"
        with stage("images"):
            for where, name in names.items():
                file = ROOT / where / "Dockerfile"
                run(["docker", "build", "-t", name, "-f", str(file), str(ROOT)], log=log)
                load = ["load", "docker-image", name, "--name", _KIND_CLUSTER]
                run([self.tool("kind"), *load], log=log)
            words = ["docker", "image", "inspect", "--format", "{{.Id}}", *names.values()]
            builds = run(words).split()
        return Images(
            operator=names["operator"],
            trainer=names["trainer_image"],
            operator_build=builds[0],
            trainer_build=builds[1],
        )

    def place_of(self, claim: str, namespace: str) -> str:  # noqa: ARG002 - one volume for all
        """Return the shared folder."""
        return str(self.folder / "volume")


def _shared_volume() -> dict[str, object]:
    """Return the volume that both workers see, for the claim ``data``."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "qwenft-shared"},
        "spec": {
            "capacity": {"storage": "50Gi"},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "standard",
            "hostPath": {"path": "/shared"},
        },
    }
