"""The operator's metrics as it runs in the cluster, through the Service that the chart makes."""

from __future__ import annotations

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from demo import install
from embedded.stages import wait_until
from endtoend.bench import Bench

pytestmark = pytest.mark.cluster

PATH = f"/api/v1/namespaces/{install.SYSTEM}/services/qwenft-metrics:metrics/proxy/metrics"


def scrape(bench: Bench) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(bench.kubectl("get", "--raw", PATH)):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_the_operator_counts_the_runs_that_there_are(bench: Bench) -> None:
    def agrees() -> bool:
        listed = json.loads(bench.kubectl("get", "qft", "--all-namespaces", "-o", "json"))
        return sum(value for _, value in scrape(bench)["qwenfinetune_runs"]) == len(listed["items"])

    wait_until(agrees, seconds=90, what="the metrics to count all runs", every=1.0)
    found = scrape(bench)
    ((_, errors),) = found["controller_runtime_reconcile_errors_total"]
    ((_, looks),) = found["controller_runtime_reconcile_time_seconds_count"]
    assert errors <= looks
    assert {labels["phase"] for labels, _ in found["qwenfinetune_runs"]} >= {"Training", "Failed"}
