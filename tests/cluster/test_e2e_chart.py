"""The installed release: its own test passes, and an upgrade can be taken back."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from demo import install
from embedded import binaries, layout, versions
from embedded.stages import direct_environment, run
from endtoend.bench import Bench

pytestmark = pytest.mark.cluster
ROOT = install.SAMPLES.parents[1]
Helm = Callable[..., str]


@pytest.fixture(params=["3", pytest.param("4", marks=pytest.mark.full)])
def helm(bench: Bench, request: pytest.FixtureRequest) -> Helm:
    """Return a major of Helm at the release that the third installed."""
    program = bench.platform.tool("helm")
    if request.param == "4":
        place, product = layout.from_environment(), binaries.next_helm(versions.load())
        binaries.build(place, product)
        program = str(binaries.home(place, product) / "helm")
    where = ("--namespace", install.SYSTEM, "--kubeconfig", str(bench.platform.kubeconfig))
    assert run([program, "version", "--short"]).startswith(f"v{request.param}.")

    def call(*words: str) -> str:
        return run([program, *words, *where], environment=direct_environment())

    return call


def label_of_the_pod(bench: Bench) -> str:
    body = json.loads(
        bench.kubectl("get", "deployment", "qwenft", "-n", install.SYSTEM, "-o", "json")
    )
    labels: dict[str, str] = body["spec"]["template"]["metadata"]["labels"]
    return labels.get("tried", "")


def test_the_release_tests_itself(helm: Helm) -> None:
    told = helm("test", install.RELEASE, "--timeout", "120s")
    assert "Phase:          Succeeded" in told


@pytest.mark.full
def test_an_upgrade_can_be_taken_back(bench: Bench, helm: Helm) -> None:
    chart = str(ROOT / "charts" / "qwenft")
    waits = ("--wait", "--timeout", "240s")
    before = label_of_the_pod(bench)
    helm("upgrade", install.RELEASE, chart, "--reuse-values",
         "--set", "podLabels.tried=once", *waits)  # fmt: skip
    assert label_of_the_pod(bench) == "once"
    helm("rollback", install.RELEASE, *waits)
    assert label_of_the_pod(bench) == before
    assert bench.kubectl("get", "crd", "qwenfinetunes.qwenft.dev", "-o", "name")
    helm("test", install.RELEASE, "--timeout", "120s")
