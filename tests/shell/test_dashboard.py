"""The Grafana dashboard and the alerts, against the series that exist; with a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import Prometheus, binary
from qwenft_operator.metrics import Metrics, MetricsServer

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts" / "qwenft" / "files"
ALERTS = FILES / "alerts.yaml"
DASHBOARD: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text("utf-8"))
EXPRESSIONS = [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]
]
STATUS: dict[str, Any] = {
    "phase": "Training",
    "attempt": 1,
    "plan": {"predicted": {"memoryGiB": 3.0, "tokensPerSecond": 900, "mfu": 0.2}},
    "measured": {"memoryGiB": 2.0, "tokensPerSecond": 1000, "mfu": 0.3},
    "progress": {
        "step": 1, "totalSteps": 10, "loss": 1.5, "validationLoss": 1.6, "gradientNorm": 1.0,
        "learningRate": 1e-5, "estimatedRemainingSeconds": 60,
    },
    "checkpoint": {"step": 1},
}  # fmt: skip


def run_body(name: str = "tiny") -> dict[str, Any]:
    created = "2026-01-01T00:00:00Z"
    return {"metadata": {"namespace": "team", "name": name, "uid": name,
                         "creationTimestamp": created}}  # fmt: skip


def known() -> set[str]:
    metrics = Metrics()
    metrics.seen(run_body() | {"status": STATUS})
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:qwenfinetune|workqueue|controller_runtime)_[a-z_]+", expression))


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_a_panel_asks_for_series_that_exist(title: str, expression: str) -> None:
    assert names_in(expression) <= known(), title
    assert names_in(expression)


def test_an_alert_asks_for_series_that_exist() -> None:
    for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            assert names_in(rule["expr"]) <= known(), rule["alert"]
            assert {"summary", "description"} <= rule["annotations"].keys()
            assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_every_panel_says_what_it_shows_and_lies_on_the_grid() -> None:
    places = set()
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["description"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        places.add((at["x"], at["y"]))
    assert len(places) == len(DASHBOARD["panels"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_no_panel_is_bound_to_one_installation() -> None:
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
    assert {item["name"] for item in DASHBOARD["templating"]["list"]} == {
        "datasource", "namespace", "run",
    }  # fmt: skip


@contextmanager
def served(metrics: Metrics) -> Iterator[int]:
    """Serve the metrics from a thread of its own; yield the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = MetricsServer(metrics.registry)
    try:
        yield asyncio.run_coroutine_threadsafe(server.start("127.0.0.1", 0), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def live(metrics: Metrics) -> None:
    """Let the operator do a little of everything that counters count."""
    metrics.added(1)
    metrics.taken(0, 0.01)
    metrics.done(0.02, None, failed=False)
    metrics.written(run_body(), STATUS)


def told(prometheus: Prometheus, expression: str) -> list[dict[str, Any]]:
    filled = re.sub(r'=~"\$(namespace|run)"', '=~".*"', expression)
    filled = re.sub(r"\[\d+[smhd]\]", "[30s]", filled)
    assert "$" not in filled
    return prometheus.query(filled)


@pytest.mark.full
def test_a_real_prometheus_draws_every_panel(tmp_path: Path) -> None:
    metrics = Metrics()
    live(metrics)
    with served(metrics) as port, Prometheus(tmp_path, target=port, rules=ALERTS) as prometheus:
        prometheus.wait(lambda: bool(prometheus.query("count_over_time(up[1m]) > 1")))
        live(metrics)
        failed = {"phase": "Failed", "failure": {"attempt": 1, "reason": "NumericError"}}
        metrics.written(run_body("bad"), failed)

        def all_drawn() -> bool:
            series = [told(prometheus, expression) for _, expression in EXPRESSIONS]
            return all(item and item[0]["value"][1] != "NaN" for item in series)

        prometheus.wait(all_drawn)
        (target,) = prometheus.targets()
        assert target["health"] == "up"
        assert target["lastError"] == ""
        (step,) = prometheus.query("qwenfinetune_step")
        assert step["metric"]["namespace"] == "team"
        assert step["metric"]["name"] == "tiny"
        prometheus.wait(
            lambda: any(
                rule["name"] == "QwenftRunFailed" and rule["state"] == "firing"
                for rule in prometheus.rules()
            )
        )
        assert {rule["health"] for rule in prometheus.rules()} == {"ok"}


@pytest.mark.full
def test_promtool_agrees_with_every_alert() -> None:
    tests = ROOT / "tests" / "support" / "monitoring" / "alerts_test.yaml"
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(tests)]):
        done = subprocess.run(
            [binary("promtool"), *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    rules = {r["alert"] for g in yaml.safe_load(ALERTS.read_text())["groups"] for r in g["rules"]}
    tested = set(re.findall(r"alertname: (\w+)", tests.read_text("utf-8")))
    assert tested == rules, "each alert has a test"
