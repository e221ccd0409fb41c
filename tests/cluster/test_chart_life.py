"""The chart's whole life with either Helm, before a control plane of its own on loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bare.plane import ROOT, Plane, plane
from embedded import binaries, layout, versions
from embedded.stages import StageError, direct_environment, run
from simulated.builders import run_body

pytestmark = pytest.mark.cluster

CHART = ROOT / "charts" / "qwenft"
SYSTEM = "qwenft-system"
TEAM = "team"
CRD = "qwenfinetunes.qwenft.dev"
COLUMN = "        - {name: Method, type: string, jsonPath: .spec.training.method, priority: 1}\n"

Helm = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """Bring up a plane on which nothing of the chart is left."""
    place = layout.from_environment()
    for product in binaries.products(versions.load()):
        binaries.build(place, product)
    with plane(tmp_path_factory.mktemp("plane"), place, scheduler=False) as found:
        for file in ("crd.yaml", "rbac.yaml"):
            path = str(ROOT / "manifests" / file)
            found.kubectl("delete", "--ignore-not-found", "-f", path)
        found.namespace(TEAM)
        yield found


@pytest.fixture(params=["3", pytest.param("4", marks=pytest.mark.full)])
def helm(request: pytest.FixtureRequest, made: Plane) -> Helm:
    """Return a function that calls Helm of one major version and returns what it says."""
    place, pins = layout.from_environment(), versions.load()
    program = binaries.program(place, pins, "helm")
    if request.param == "4":
        product = binaries.next_helm(pins)
        binaries.build(place, product)
        program = binaries.home(place, product) / "helm"

    def call(*words: str) -> str:
        where = ["--namespace", SYSTEM, "--kubeconfig", str(made.kubeconfig("admin"))]
        return run([str(program), *words, *where], environment=direct_environment())

    assert call("version", "--short").startswith(f"v{request.param}.")
    return call


@pytest.fixture
def newer(tmp_path: Path) -> str:
    """Copy the chart, with a definition that has a column more."""
    copy = tmp_path / "qwenft"
    shutil.copytree(CHART, copy)
    file = copy / "files" / "crd.yaml"
    before, schema, after = file.read_text("utf-8").partition("      schema:\n")
    file.write_text(before + COLUMN + schema + after, "utf-8")
    return str(copy)


def columns(made: Plane) -> set[str]:
    body: dict[str, Any] = json.loads(made.kubectl("get", "crd", CRD, "-o", "json"))
    return {item["name"] for item in body["spec"]["versions"][0]["additionalPrinterColumns"]}


def runs(made: Plane) -> str:
    return made.kubectl("get", "qft", "-n", TEAM, "-o", "name").strip()


def test_a_release_changes_its_definition_and_leaves_the_runs(
    made: Plane, helm: Helm, newer: str
) -> None:
    told = helm("install", "qwenft", str(CHART), "--create-namespace")
    assert "kubectl get qft -w" in told
    assert f"kubectl delete crd {CRD}" in told, "how to remove what is kept"
    body = run_body("stays", TEAM)
    made.kubectl("create", "-f", "-", stdin=body)
    assert "Method" not in columns(made)
    helm("upgrade", "qwenft", newer)
    assert "Method" in columns(made)
    helm("rollback", "qwenft")
    assert "Method" not in columns(made)
    told = helm("uninstall", "qwenft")
    assert CRD in told, "Helm says what it keeps"
    assert runs(made).endswith("/stays")
    assert made.kubectl("get", "deployments", "-n", SYSTEM, "-o", "name") == ""
    helm("install", "qwenft", str(CHART))
    assert runs(made).endswith("/stays")
    helm("uninstall", "qwenft")
    made.kubectl("delete", "crd", CRD)  # as docs/howto/upgrade.md says
    with pytest.raises(StageError, match=r"NotFound|doesn't have a resource type"):
        runs(made)


def test_a_value_that_nobody_knows_is_refused_by_name(helm: Helm) -> None:
    with pytest.raises(StageError, match="replica"):
        helm("template", "qwenft", str(CHART), "--set", "replica=2")


def test_one_namespace_is_installed_and_removed_with_nothing_left(made: Plane, helm: Helm) -> None:
    helm("install", "one", str(CHART), "--create-namespace", "--set", f"watchNamespace={TEAM}")
    assert made.kubectl("get", "role", "one-qwenft", "-n", TEAM, "-o", "name")
    helm("uninstall", "one")
    left = made.kubectl(
        "get", "roles,rolebindings,clusterroles,clusterrolebindings", "-A",
        "-l", "app.kubernetes.io/instance=one", "-o", "name",
    )  # fmt: skip
    assert left == ""
    made.kubectl("delete", "crd", CRD)
