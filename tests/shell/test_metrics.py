"""The series of one process, as a Prometheus reads them."""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from qwenft_operator.app import App, Options
from qwenft_operator.cluster import ApiCluster
from qwenft_operator.metrics import RUN_SERIES, Metrics, MetricsServer
from qwenft_operator.reconcile import Key, Reconciler
from qwenft_operator.vigil import Vigil
from simulated import World

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
ONE_RUN = (("name", "tiny"), ("namespace", "team"))
US = (("controller", "qwenfinetune"),)
QUEUE = (("name", "qwenfinetune"),)


def read(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(metrics: Metrics, accept: str = "") -> tuple[str, str]:
    server = MetricsServer(metrics.registry)
    port = await server.start("127.0.0.1", 0)
    try:
        async with (
            aiohttp.ClientSession(headers={"Accept": accept}) as session,
            session.get(f"http://127.0.0.1:{port}/metrics") as answer,
        ):
            assert answer.status == 200
            return await answer.text(), answer.headers["Content-Type"]
    finally:
        await server.stop()


def samples(metrics: Metrics) -> Samples:
    return read(asyncio.run(scrape(metrics))[0])


def witnessed(world: World) -> Metrics:
    """Have the world's operator tell a new set of metrics what it sees."""
    metrics = Metrics(workers=8, clock=lambda: world.now)
    world.reconciler = Reconciler(
        world,
        settings=world.settings,
        reports=world.reports,
        clock=lambda: world.now,
        witness=metrics,
    )
    world.reconciler.watched_by(Vigil(lambda: world.now))
    return metrics


def training() -> tuple[World, Metrics]:
    world = World()
    metrics = witnessed(world)
    world.submit()
    world.program(lambda *_: None)
    world.live_until("Starting")
    for _ in range(3):
        world.tick()
    world.report(7)
    world.tick()
    assert world.status()["phase"] == "Training"
    return world, metrics


def test_a_training_run_is_seen_with_its_step_and_loss() -> None:
    _, metrics = training()
    found = samples(metrics)
    assert found["qwenfinetune_step", ONE_RUN] == 7.0
    assert found["qwenfinetune_total_steps", ONE_RUN] == 100.0
    assert found["qwenfinetune_loss", ONE_RUN] == 2.0
    assert found["qwenfinetune_attempt", ONE_RUN] == 1.0
    assert found["qwenfinetune_runs", (("phase", "Training"),)] == 1.0
    assert found["qwenfinetune_runs", (("phase", "Failed"),)] == 0.0
    assert found["qwenfinetune_convergence_seconds_count", ()] == 1.0


def test_all_series_of_a_run_go_with_it() -> None:
    world, metrics = training()
    world.objects.pop(("QwenFineTune", "team", "tiny"))
    world.reconcile()
    left = samples(metrics)
    assert [key for key in left if ("name", "tiny") in key[1]] == []
    assert left["qwenfinetune_runs", (("phase", "Training"),)] == 0.0


def test_a_run_missing_from_the_whole_list_is_gone_too() -> None:
    world, metrics = training()
    metrics.listed([])
    assert not any(("name", "tiny") in labels for _, labels in samples(metrics))
    metrics.listed(world.of_kind("QwenFineTune"))
    assert samples(metrics)["qwenfinetune_step", ONE_RUN] == 7.0


def test_a_restart_is_counted_by_its_cause() -> None:
    world, metrics = training()
    world.lose("node-1")
    world.live_until("Restarting")
    found = samples(metrics)
    counted = {key[1]: value for key, value in found.items() if "restarts_total" in key[0]}
    assert counted.pop((("cause", "NodeLost"),)) == 1.0
    assert set(counted.values()) == {0.0}, "there from the start: Prometheus counts increases only"


def test_a_refused_spec_is_a_failure_with_a_cause() -> None:
    world = World()
    metrics = witnessed(world)
    world.submit(model={"name": "Qwen/Qwen1.5-7B", "nonsense": 1})
    world.settle()
    assert samples(metrics)["qwenfinetune_failures_total", (("cause", "InvalidSpec"),)] == 1.0


def test_the_error_of_the_plan_is_told_for_each_quantity() -> None:
    world, metrics = training()
    body = world.objects["QwenFineTune", "team", "tiny"]
    status = body["status"] | {"measured": {"memoryGiB": 2.0, "tokensPerSecond": 500.0}}
    predicted = status["plan"]["predicted"]
    metrics.written(body, status)
    found = samples(metrics)
    memory = found["qwenfinetune_plan_error_ratio", (*ONE_RUN, ("quantity", "memory"))]
    assert memory == pytest.approx(predicted["memoryGiB"] / 2.0)
    assert found["qwenfinetune_memory_bytes", ONE_RUN] == 2.0 * 2**30


def test_the_queue_is_told_of_under_the_names_of_controller_runtime() -> None:
    metrics = Metrics(workers=8)
    metrics.added(1)
    metrics.added(2)
    metrics.taken(1, 0.5)
    found = samples(metrics)
    assert found["workqueue_depth", QUEUE] == 1.0
    assert found["workqueue_adds_total", QUEUE] == 2.0
    assert found["workqueue_queue_duration_seconds_sum", QUEUE] == 0.5
    assert found["controller_runtime_active_workers", US] == 1.0
    assert found["controller_runtime_max_concurrent_reconciles", US] == 8.0


@pytest.mark.parametrize(
    ("delay", "failed", "result"),
    [
        (None, False, "success"),
        (0.0, False, "requeue"),
        (30.0, False, "requeue_after"),
        (1.0, True, "error"),
    ],
)
def test_a_look_is_counted_by_how_it_ended(
    delay: float | None, result: str, *, failed: bool
) -> None:
    metrics = Metrics()
    metrics.taken(0, 0.0)
    metrics.done(0.25, delay, failed=failed)
    found = samples(metrics)
    counted = {
        dict(labels)["result"]: value
        for (name, labels), value in found.items()
        if name == "controller_runtime_reconcile_total"
    }
    assert counted.pop(result) == 1.0
    assert set(counted.values()) == {0.0}
    assert found["controller_runtime_reconcile_errors_total", US] == float(failed)
    assert found["workqueue_retries_total", QUEUE] == float(failed)
    assert found["controller_runtime_reconcile_time_seconds_sum", US] == 0.25
    assert found["controller_runtime_active_workers", US] == 0.0


def test_no_label_has_an_unbounded_value() -> None:
    _, metrics = training()
    allowed = {"name", "namespace", "phase", "cause", "controller", "result", "quantity", "le"}
    allowed |= {"code", "method"}  # of HTTP: bounded by nature
    for _, labels in samples(metrics):
        assert {name for name, _ in labels} <= allowed


def test_many_runs_do_not_make_more_series_than_can_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qwenft_operator.metrics._MOST_RUNS", 3)
    metrics = Metrics()
    for number in range(10):
        metadata = {"namespace": "team", "name": f"r{number}", "uid": str(number)}
        status = {"phase": "Training", "progress": {"step": number}}
        metrics.seen({"metadata": metadata, "status": status})
    found = samples(metrics)
    assert sum(name == "qwenfinetune_step" for name, _ in found) == 3
    assert found["qwenfinetune_runs", (("phase", "Training"),)] == 10.0


def test_names_and_units_follow_the_conventions() -> None:
    text, kind = asyncio.run(scrape(training()[1]))
    assert kind.startswith("text/plain")
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert re.fullmatch(r"[a-z][a-z_]*", family.name)
        assert not re.search(r"milli|_gib\b|_ms\b", family.name)
    assert "_created" not in text


def test_openmetrics_is_spoken_where_asked_for() -> None:
    text, kind = asyncio.run(scrape(Metrics(), "application/openmetrics-text; version=1.0.0"))
    assert kind.startswith("application/openmetrics-text")
    assert text.rstrip().endswith("# EOF")


def test_every_series_of_a_run_has_a_meaning_and_a_source() -> None:
    full: dict[str, Any] = {
        "attempt": 1,
        "progress": {
            "step": 1, "totalSteps": 2, "loss": 1, "validationLoss": 1, "gradientNorm": 1,
            "learningRate": 1, "estimatedRemainingSeconds": 1,
        },
        "measured": {"tokensPerSecond": 1, "mfu": 1, "memoryGiB": 1},
        "checkpoint": {"step": 1},
    }  # fmt: skip
    full["phase"] = "Training"
    metrics = Metrics()
    metrics.seen({"metadata": {"namespace": "team", "name": "tiny", "uid": "u"}, "status": full})
    told = {name.removeprefix("qwenfinetune_") for name, labels in samples(metrics)
            if labels == ONE_RUN}  # fmt: skip
    assert told == set(RUN_SERIES)


def test_the_app_counts_what_its_queue_does() -> None:
    world = World()
    world.submit()
    world.program(lambda *_: None)

    async def work() -> Samples:
        app = App(cast("ApiCluster", world), Options(metrics_port=0, host="127.0.0.1"))
        await app._listen()
        app.wake("team", "tiny")
        task = asyncio.create_task(app._queue.run(1))
        while not world.of_kind("Job"):  # noqa: ASYNC110 - the store is what is awaited
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert app._metrics_server._runner is not None
        text = (await scrape(app._metrics))[0]
        await app._metrics_server.stop()
        return read(text)

    found = asyncio.run(work())
    assert found["workqueue_adds_total", QUEUE] >= 1.0
    assert found["controller_runtime_reconcile_errors_total", US] == 0.0


def test_without_a_port_nothing_is_served() -> None:
    async def listen() -> bool:
        app = App(cast("ApiCluster", World()), Options())
        await app._listen()
        return app._metrics_server._runner is None

    assert asyncio.run(listen())
    assert Options.from_environment({"QWENFT_METRICS_PORT": "8081"}).metrics_port == 8081
    assert Options.from_environment({"QWENFT_METRICS_PORT": ""}).metrics_port is None


def test_a_vanished_key_is_told_once_the_operator_looks() -> None:
    metrics = Metrics()
    world = World()
    reconciler = Reconciler(world, witness=metrics)
    metrics.seen({"metadata": {"namespace": "team", "name": "ghost", "uid": "u"}})
    World.wait_for(reconciler(Key("team", "ghost")))
    assert sum(metrics.ledger.phases().values()) == 0


def test_requests_are_counted_under_client_go_s_name() -> None:
    metrics = Metrics()
    for status in (200, 409, 409, None):
        metrics.answered("PATCH", status)
    text, _ = asyncio.run(scrape(metrics))
    found = {
        dict(labels)["code"]: value
        for (name, labels), value in read(text).items()
        if name == "rest_client_requests_total" and dict(labels)["method"] == "PATCH"
    }
    assert found == {"200": 1, "409": 2, "<error>": 1}
