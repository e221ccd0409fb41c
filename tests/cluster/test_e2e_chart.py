"""The installed release: its own test passes, and an upgrade can be taken back."""

from __future__ import annotations

import json

import pytest

from demo import install
from embedded.stages import direct_environment, run
from endtoend.bench import Bench

pytestmark = pytest.mark.cluster
ROOT = install.SAMPLES.parents[1]


def helm(bench: Bench, *words: str) -> str:
    place = ["--namespace", install.SYSTEM, "--kubeconfig", str(bench.platform.kubeconfig)]
    command = [bench.platform.tool("helm"), *words, *place]
    return run(command, environment=direct_environment())


def label_of_the_pod(bench: Bench) -> str:
    body = json.loads(
        bench.kubectl("get", "deployment", "qwenft", "-n", install.SYSTEM, "-o", "json")
    )
    labels: dict[str, str] = body["spec"]["template"]["metadata"]["labels"]
    return labels.get("tried", "")


def test_the_release_tests_itself(bench: Bench) -> None:
    told = helm(bench, "test", install.RELEASE, "--timeout", "120s")
    assert "Phase:          Succeeded" in told


@pytest.mark.full
def test_an_upgrade_can_be_taken_back(bench: Bench) -> None:
    chart = str(ROOT / "charts" / "qwenft")
    waits = ("--wait", "--timeout", "240s")
    before = label_of_the_pod(bench)
    helm(bench, "upgrade", install.RELEASE, chart, "--reuse-values",
         "--set", "podLabels.tried=once", *waits)  # fmt: skip
    assert label_of_the_pod(bench) == "once"
    helm(bench, "rollback", install.RELEASE, *waits)
    assert label_of_the_pod(bench) == before
    assert bench.kubectl("get", "crd", "qwenfinetunes.qwenft.dev", "-o", "name")
    helm(bench, "test", install.RELEASE, "--timeout", "120s")
