"""What a Prometheus can read of the operator: the names of controller-runtime where they exist.

Labels are bounded: phases and causes are fixed sets, and a run has series of its own only while it
is alive (:mod:`qwenft_operator.ledger`). The only module that imports prometheus_client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from qwenft_operator.ledger import CAUSES, Change, Figures, Ledger, change_of

__all__ = ["RUN_SERIES", "Metrics", "MetricsServer"]

_CONTROLLER = "qwenfinetune"
_MOST_RUNS = 1000
"""Runs with series of their own; a dashboard of more is unreadable anyway."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WAITS = (5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series a counter that nobody asks for

RUN_SERIES = {
    "attempt": "Number of the newest attempt",
    "step": "Optimizer steps done, over all attempts",
    "total_steps": "Optimizer steps that the run will have done at its end",
    "loss": "Mean cross-entropy of the last step's trained tokens, nats",
    "validation_loss": "Cross-entropy on the validation part of the dataset, nats",
    "gradient_norm": "Norm of the last step's gradient before clipping",
    "learning_rate": "Learning rate of the last step",
    "remaining_seconds": "Seconds to the end, by the run's own pace; only while it trains",
    "tokens_per_second": "Real (not padded) tokens of the whole run, a second",
    "mfu": "Share of the peak rate of the devices that the model's arithmetic reached, 0 to 1",
    "memory_bytes": "Measured peak memory of the fullest rank, bytes",
    "checkpoint_step": "Step of the newest whole checkpoint",
}
"""Series of one run, labelled ``namespace`` and ``name``, and what they mean."""


class RunCollector(Collector):
    """Turns the ledger into series at the moment of a scrape: nothing is left of a dropped run."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance: a registry would otherwise collect once at the start."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the runs by phase, then the series of each shown run."""
        phases = GaugeMetricFamily(
            "qwenfinetune_runs", "Runs that exist now, by phase", labels=("phase",)
        )
        for phase, count in self._ledger.phases().items():
            phases.add_metric((phase,), count)
        yield phases
        runs = self._ledger.current(self._clock(), _MOST_RUNS)
        yield from _run_families(runs)
        yield _error_family(runs)


def _run_families(runs: tuple[Figures, ...]) -> Iterable[Metric]:
    known = [(run, dict(run.values)) for run in runs]
    for series, meaning in RUN_SERIES.items():
        family = GaugeMetricFamily(f"qwenfinetune_{series}", meaning, labels=("namespace", "name"))
        for run, values in known:
            if series in values:
                family.add_metric((run.namespace, run.name), values[series])
        yield family


def _error_family(runs: tuple[Figures, ...]) -> Metric:
    family = GaugeMetricFamily(
        "qwenfinetune_plan_error_ratio",
        "Predicted by the plan / measured in training; 1 is a perfect prediction",
        labels=("namespace", "name", "quantity"),
    )
    for run in runs:
        for quantity, ratio in run.errors:
            family.add_metric((run.namespace, run.name, quantity), ratio)
    return family


class Metrics:
    """All series of one process, and the moments at which they change."""

    def __init__(self, *, workers: int = 1, clock: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self.ledger = Ledger()
        self._clock = clock
        self._make_queue_series()
        self._make_reconcile_series(workers)
        self._make_run_series()
        self.registry.register(RunCollector(self.ledger, clock))

    def _make_queue_series(self) -> None:
        label, registry = ("name",), self.registry
        self._depth = Gauge(
            "workqueue_depth", "Keys that wait to be looked at", label, registry=registry
        ).labels(_CONTROLLER)
        self._adds = Counter(
            "workqueue_adds", "Keys added to the queue", label, registry=registry
        ).labels(_CONTROLLER)
        self._retries = Counter(
            "workqueue_retries", "Keys that came back after an error", label, registry=registry
        ).labels(_CONTROLLER)
        self._queued = Histogram(
            "workqueue_queue_duration_seconds", "Seconds that a key waited in the queue",
            label, buckets=_SECONDS, registry=registry,
        ).labels(_CONTROLLER)  # fmt: skip
        self._worked = Histogram(
            "workqueue_work_duration_seconds", "Seconds that work on a key took",
            label, buckets=_SECONDS, registry=registry,
        ).labels(_CONTROLLER)  # fmt: skip

        self._answers = Counter(
            "rest_client_requests", "Requests to the apiserver, by method and status"
            " (<error>: no answer); kopf's watches are not among them",
            ("code", "method"), registry=registry,
        )  # fmt: skip
        self._answers.labels("200", "GET")

    def _make_reconcile_series(self, workers: int) -> None:
        label, registry = ("controller",), self.registry
        prefix = "controller_runtime"
        self._reconciles = Counter(
            f"{prefix}_reconcile", "Looks at a run, by how they ended: success, error,"
            " requeue (again at once) or requeue_after",
            (*label, "result"), registry=registry,
        )  # fmt: skip
        for result in ("success", "error", "requeue", "requeue_after"):
            self._reconciles.labels(_CONTROLLER, result)
        self._failed_looks = Counter(
            f"{prefix}_reconcile_errors", "Looks that ended with an error", label, registry=registry
        ).labels(_CONTROLLER)
        self._look_seconds = Histogram(
            f"{prefix}_reconcile_time_seconds", "Seconds of one look at a run",
            label, buckets=_SECONDS, registry=registry,
        ).labels(_CONTROLLER)  # fmt: skip
        self._active = Gauge(
            f"{prefix}_active_workers", "Looks under way", label, registry=registry
        ).labels(_CONTROLLER)
        Gauge(
            f"{prefix}_max_concurrent_reconciles", "Most looks at a time", label, registry=registry
        ).labels(_CONTROLLER).set(workers)

    def _make_run_series(self) -> None:
        registry = self.registry
        self._restarts = Counter(
            "qwenfinetune_restarts", "Attempts that followed a failed one, by the cause",
            ("cause",), registry=registry,
        )  # fmt: skip
        self._failures = Counter(
            "qwenfinetune_failures", "Runs that ended in failure, by the cause",
            ("cause",), registry=registry,
        )  # fmt: skip
        # A series that begins at 1 has not increased, for Prometheus: all begin at 0, now.
        for cause in CAUSES:
            self._restarts.labels(cause)
            self._failures.labels(cause)
        self._convergence = Histogram(
            "qwenfinetune_convergence_seconds",
            "Seconds from a run's creation to the report of its first trained step",
            buckets=_WAITS, registry=registry,
        )  # fmt: skip

    # What the queue tells.

    def added(self, depth: int) -> None:
        """Count a key that was added to the queue."""
        self._adds.inc()
        self._depth.set(depth)

    def taken(self, depth: int, waited: float) -> None:
        """Count a key that a worker took after ``waited`` seconds."""
        self._depth.set(depth)
        self._queued.observe(waited)
        self._active.inc()

    def done(self, seconds: float, delay: float | None, *, failed: bool) -> None:
        """Count a look that took ``seconds`` and asked for the next one after ``delay``."""
        self._active.dec()
        self._worked.observe(seconds)
        self._look_seconds.observe(seconds)
        self._reconciles.labels(_CONTROLLER, _result(delay, failed=failed)).inc()
        if failed:
            self._failed_looks.inc()
            self._retries.inc()

    # What the reconciliation tells.

    def answered(self, method: str, status: int | None) -> None:
        """Count an answer of the apiserver; None where it gave none."""
        self._answers.labels("<error>" if status is None else str(status), method).inc()

    def seen(self, body: Mapping[str, Any]) -> None:
        """Take the figures of a run as it was read."""
        self.ledger.keep(Figures.from_object(body))

    def written(self, body: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Count what a status says that was just written over ``body``."""
        self.seen({**body, "status": status})
        self._count(change_of(body, status, self._clock()))

    def gone(self, namespace: str, name: str) -> None:
        """Drop a run that does not exist any more."""
        self.ledger.drop(namespace, name)

    def listed(self, bodies: Iterable[Mapping[str, Any]]) -> None:
        """Take a whole list of runs: those that are not in it are gone."""
        places = []
        for body in bodies:
            self.seen(body)
            places.append((body["metadata"]["namespace"], body["metadata"]["name"]))
        self.ledger.retain(places)

    def _count(self, change: Change) -> None:
        if change.restarts:
            self._restarts.labels(change.cause).inc(change.restarts)
        if change.failed:
            self._failures.labels(change.cause).inc()
        if change.waited is not None:
            self._convergence.observe(change.waited)


def _result(delay: float | None, *, failed: bool) -> str:
    if failed:
        return "error"
    if delay is None:
        return "success"
    return "requeue_after" if delay > 0 else "requeue"


class MetricsServer:
    """Plain HTTP on a port of its own, with nothing but ``/metrics``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which the system chooses for 0."""
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": kind})
