"""What other tools see of runs: whoever walks owners, and a Prometheus behind the dashboard.

Control plane, operator, Prometheus and garbage collector are real; pods are KWOK's, and what they
report is sent with the tokens of theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bare import nodes
from bare.api import Api
from bare.plane import ROOT, Plane, plane
from bare.process import Operator
from bare.team import report
from embedded import binaries, layout, versions
from embedded.stages import wait_until
from loopback import free_ports
from monitoring import Prometheus
from qwenft_operator import names
from serving import make_certificates
from simulated.builders import run_body

pytestmark = [pytest.mark.cluster, pytest.mark.full]

TEAM = "team"
FILES = ROOT / "charts" / "qwenft" / "files"
REPORT = {
    "attempt": 1, "totalSteps": 9, "loss": 2.0, "validationLoss": 2.1, "gradientNorm": 0.5,
    "learningRate": 1e-5, "tokensPerSecond": 500.0, "memoryGiB": 0.1, "mfu": 0.2,
    "estimatedRemainingSeconds": 60.0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An operator at work, and where its metrics are."""

    plane: Plane
    api: Api
    certificates: Path
    metrics: int

    def kubectl(self, *words: str) -> str:
        """Run kubectl in the team's namespace."""
        return self.plane.kubectl(*words, "-n", TEAM)

    def phase(self, name: str) -> str:
        """Return a run's phase; empty before its first look."""
        words = ("get", "qft", name, "-o", "jsonpath={.status.phase}")
        return self.kubectl(*words).strip()

    def begin(self, name: str) -> None:
        """Create a run and wait until its pods run."""
        self.api.create_run(run_body(name, TEAM))
        ready = "jsonpath={.status.workers.ready}"
        wait_until(
            lambda: self.kubectl("get", "qft", name, "-o", ready) == "2/2",
            seconds=90, what=f"{name}'s pods", every=0.3,
        )  # fmt: skip

    def report(self, name: str, step: int) -> None:
        """Report a step as the run's first pod would."""
        token = self.api.pod_tokens(TEAM, names.AUDIENCE)[name]
        told = {**REPORT, "step": step}
        report(self.plane, self.certificates, (TEAM, name), token, told)

    def objects(self) -> dict[str, dict[str, Any]]:
        """Return every object of the namespace by uid, Events aside."""
        kinds = self.plane.kubectl(
            "api-resources", "--namespaced", "--verbs=list", "-o", "name"
        ).split()
        wanted = ",".join(kind for kind in kinds if not kind.startswith("events"))
        items = json.loads(self.kubectl("get", wanted, "-o", "json"))["items"]
        return {item["metadata"]["uid"]: item for item in items}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    place = layout.from_environment()
    for product in (*binaries.products(versions.load()), *binaries.on_demand(versions.load())):
        binaries.build(place, product)
    certificates = make_certificates(tmp_path_factory.mktemp("certificates"))
    (port,) = free_ports(1)
    with plane(tmp_path_factory.mktemp("plane"), place) as made:
        made.namespace(TEAM)
        nodes.make_nodes(made, 8)
        nodes.start_kwok(
            made,
            nodes.ending(1, 69, seconds=1, run="again"),
            nodes.ending(1, 65, seconds=1, run="broken"),
        )
        with Operator.running(
            made, QWENFT_PROGRESS_URL=f"https://127.0.0.1:{made.ports['progress']}",
            QWENFT_CERTIFICATES=str(certificates), QWENFT_PROGRESS_HOST="127.0.0.1",
            QWENFT_PROGRESS_PORT=str(made.ports["progress"]), QWENFT_METRICS_PORT=str(port),
        ):  # fmt: skip
            yield Scene(plane=made, api=Api(made), certificates=certificates, metrics=port)


def owners(item: dict[str, Any], there: dict[str, dict[str, Any]]) -> list[str]:
    """Return the kinds that `kubectl tree` finds on the way up from an object."""
    found = []
    while item["metadata"].get("ownerReferences"):
        (reference,) = item["metadata"]["ownerReferences"]
        item = there[reference["uid"]]
        assert (item["kind"], item["metadata"]["name"]) == (reference["kind"], reference["name"])
        found.append(item["kind"])
    return found


def test_all_that_a_run_makes_is_found_under_it_and_goes_with_it(scene: Scene) -> None:
    before = scene.objects()
    scene.begin("owned")
    there = scene.objects()
    made = [item for uid, item in there.items() if uid not in before]
    (root,) = [item for item in made if item["kind"] == names.KIND]
    below = [item for item in made if item is not root]
    assert {owners(item, there)[-1] for item in below} == {names.KIND}
    assert sorted({item["kind"] for item in below}) == [
        "ConfigMap", "Job", "NetworkPolicy", "Pod", "Service"
    ]  # fmt: skip
    assert {tuple(owners(item, there)) for item in below if item["kind"] == "Pod"} == {
        ("Job", names.KIND)
    }
    scene.kubectl("delete", "qft", "owned")
    wait_until(
        lambda: scene.objects().keys() <= before.keys(), seconds=60, what="an empty namespace"
    )


def expressions() -> list[tuple[str, str]]:
    dashboard = json.loads((FILES / "dashboard.json").read_text("utf-8"))
    return [
        (
            panel["title"],
            re.sub(
                r"\[\d+[smhd]\]",
                "[1m]",
                target["expr"].replace("$namespace", ".*").replace("$run", ".*"),
            ),
        )
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def test_every_panel_of_the_dashboard_has_something_to_draw(scene: Scene, tmp_path: Path) -> None:
    scene.begin("first")
    scene.report("first", 1)
    wait_until(lambda: scene.phase("first") == "Training", seconds=30, what="a step")
    rules = FILES / "alerts.yaml"
    with Prometheus(tmp_path, target=scene.metrics, rules=rules) as prometheus:
        prometheus.wait(lambda: bool(prometheus.query("count_over_time(up[1m]) > 1")))
        scene.begin("second")
        scene.report("second", 1)
        for name, phase in (("again", "Starting"), ("broken", "Failed")):
            scene.api.create_run(run_body(name, TEAM))
            wait_until(lambda n=name, p=phase: scene.phase(n) == p, seconds=90, what=name)  # type: ignore[misc]

        def empty() -> list[str]:
            return [
                title
                for title, expression in expressions()
                if not (found := prometheus.query(expression)) or found[0]["value"][1] == "NaN"
            ]

        try:
            prometheus.wait(lambda: not empty())
        finally:
            assert empty() == []
        (step,) = prometheus.query('qwenfinetune_step{name="first"}')
        assert step["metric"]["namespace"] == TEAM
        assert {rule["health"] for rule in prometheus.rules()} == {"ok"}
