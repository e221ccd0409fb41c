"""The programs of the cluster: Go products built from the module proxy, Debian packages by apt-get.

Each product lies under ``bin/NAME-VERSION-PIN`` of the cache, PIN being a hash over its Go folder,
so that a changed pin or source is built anew and nothing else is. A build goes to a folder of
another name that is renamed at the end: a cut-off build leaves nothing that looks finished.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from embedded.layout import Layout
from embedded.stages import StageError, run, stage
from embedded.versions import FOLDER, Versions

GO_FOLDER = FOLDER / "go"
_VERSION_PACKAGE = "k8s.io/component-base/version"


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """One Go module of ``go/``: its tools, or its own main package."""

    name: str
    version: str
    programs: tuple[str, ...]
    tools: bool
    linker_flags: str = "-s -w"

    @property
    def source(self) -> Path:
        """The folder that holds ``go.mod``."""
        return GO_FOLDER / self.name


def products(versions: Versions) -> tuple[Product, ...]:
    """Return what is built, the longest build first."""
    kubernetes = versions.go["kubernetes"]
    major, minor = kubernetes.removeprefix("v").split(".")[:2]
    stamp = {"gitVersion": kubernetes, "gitMajor": major, "gitMinor": minor}
    version_flags = " ".join(f"-X {_VERSION_PACKAGE}.{key}={value}" for key, value in stamp.items())
    helm = versions.go["helm"]
    return (
        Product(
            name="kubernetes",
            version=kubernetes,
            programs=(
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubectl",
                "kubelet",
            ),
            tools=True,
            linker_flags=f"-s -w {version_flags}",
        ),
        Product(name="etcd", version=versions.go["etcd"], programs=("server",), tools=True),
        Product(name="coredns", version=versions.go["coredns"], programs=("coredns",), tools=False),
        Product(
            name="helm",
            version=helm,
            programs=("helm",),
            tools=True,
            linker_flags=f"-s -w -X helm.sh/helm/v3/internal/version.version={helm}",
        ),
        Product(name="pause", version=versions.go["pause"], programs=("pause",), tools=False),
    )


def on_demand(versions: Versions) -> tuple[Product, ...]:
    """Return what only load tests need; the embedded cluster does without."""
    return (Product(name="kwok", version=versions.go["kwok"], programs=("kwok",), tools=True),)


def next_helm(versions: Versions) -> Product:
    """Return the newer major of Helm: the tests of the chart try both, the cluster needs one."""
    helm = versions.go["helm4"]
    stamp = f"-X helm.sh/helm/v4/internal/version.version={helm}"
    return Product(
        name="helm4", version=helm, programs=("helm",), tools=True, linker_flags=f"-s -w {stamp}"
    )


def kueue(versions: Versions) -> Product:
    """Return Kueue's controller: the test of queues runs the real one."""
    return Product(name="kueue", version=versions.go["kueue"], programs=("kueue",), tools=True)


def kube_score(versions: Versions) -> Product:
    """Return kube-score, which judges the manifests beside checkov."""
    version = versions.go["kubescore"]
    return Product(name="kubescore", version=version, programs=("kube-score",), tools=True)


def cyclonus(versions: Versions) -> Product:
    """Return Cyclonus, which tells what network policies mean."""
    version = versions.go["cyclonus"]
    return Product(name="cyclonus", version=version, programs=("cyclonus",), tools=True)


def training_operator(versions: Versions) -> Product:
    """Return Kubeflow's Training Operator: the load test runs it beside ours."""
    return Product(
        name="trainingoperator",
        version=versions.go["trainingoperator"],
        programs=("training-operator.v1",),
        tools=True,
    )


def pin(folder: Path) -> str:
    """Return ten hex digits over the names and contents of a Go folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:10]


def home(layout: Layout, product: Product) -> Path:
    """Return the folder in which the product's programs lie once built."""
    return layout.binaries / f"{product.name}-{product.version}-{pin(product.source)}"


def program(layout: Layout, versions: Versions, name: str) -> Path:
    """Return the path of a program by its name; ``KeyError`` for one that is not built here."""
    for product in (*products(versions), *on_demand(versions)):
        if name in product.programs:
            return home(layout, product) / name
    raise KeyError(name)


def build_command(product: Product, target: Path) -> list[str]:
    """Return the ``go`` command line that puts the product's programs into ``target``."""
    flags = ["-trimpath", "-ldflags", product.linker_flags]
    if product.tools:
        return ["go", "install", *flags, "tool"]
    return ["go", "build", *flags, "-o", str(target / product.programs[0]), "."]


def build(layout: Layout, product: Product) -> None:
    """Build one product unless it is there."""
    final = home(layout, product)
    if final.is_dir():
        return
    if shutil.which("go") is None:
        raise StageError(
            "go: no such program", remedy="install Go 1.26 or newer (https://go.dev/doc/install)"
        )
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    log = layout.logs / f"build-{product.name}.log"
    log.unlink(missing_ok=True)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(partial), "GOWORK": "off"}
    with stage(
        f"build {product.name} {product.version}", remedy="read the log; is the Go proxy reachable?"
    ):
        run(build_command(product, partial), log=log, environment=environment, cwd=product.source)
        partial.rename(final)


def build_all(layout: Layout, versions: Versions) -> None:
    """Build every product that is not in the cache."""
    for product in products(versions):
        build(layout, product)


def missing_packages(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Return those Debian packages that are not installed."""
    asked = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    there = {line.split()[0] for line in asked.stdout.splitlines() if line.endswith(" installed")}
    return tuple(package for package in packages if package not in there)


def install_packages(layout: Layout, packages: tuple[str, ...]) -> None:
    """Install the missing Debian packages; with none missing it needs no network."""
    missing = missing_packages(packages)
    if not missing:
        return
    log = layout.logs / "apt.log"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    with stage(f"install {', '.join(missing)}", remedy="run the last command of the log by hand"):
        run(["apt-get", "update", "--quiet"], log=log, environment=environment)
        run(install, log=log, environment=environment)
        if "containerd" in missing and Path("/run/systemd/system").is_dir():
            # The package starts a service of its own, which nobody asked for.
            run(["systemctl", "disable", "--now", "containerd.service"], log=log)
