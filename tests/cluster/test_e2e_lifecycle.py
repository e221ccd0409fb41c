"""Deleting, suspending and dry runs."""

from __future__ import annotations

import pytest

from demo import install, platforms
from endtoend.bench import Bench, in_phase
from endtoend.runs import Body, tiny
from qwenft_cli.watch import history, look

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_SECONDS = 600
LONG = {"maxSteps": 200}


def delete(bench: Bench, name: str) -> None:
    bench.kubectl("delete", "qft", name, "--timeout=60s")
    bench.until(lambda: bench.children(name) == (), 90, f"the end of what {name} made")


def test_a_run_that_waits_can_be_deleted(bench: Bench) -> None:
    body = tiny("delete-pending", resources={"nodes": {"min": 3, "max": 3}})
    name = bench.submit(body)
    status = bench.wait(name, in_phase("Pending"), 60)["status"]
    assert status["message"].startswith("needs 3×1, free: "), "says what is missing"
    assert bench.children(name) == (), "and takes nothing meanwhile"
    delete(bench, name)


def test_a_run_that_starts_can_be_deleted(bench: Bench) -> None:
    name = bench.submit(tiny("delete-starting", training=LONG))
    bench.wait(name, in_phase("Starting"), 120)
    bench.until(lambda: len(bench.children(name)) >= 4, 30, "the attempt's objects")
    delete(bench, name)


def test_a_run_that_trains_can_be_deleted(bench: Bench) -> None:
    one = {"nodes": {"min": 1, "max": 1}}
    name = bench.submit(tiny("delete-training", training=LONG, resources=one))
    bench.wait(name, in_phase("Training"), _SECONDS)
    delete(bench, name)


def test_a_suspended_run_goes_on_where_it_stopped_and_can_be_deleted_afterwards(
    bench: Bench,
) -> None:
    name = bench.submit(
        tiny("pause", training={"epochs": 2, "maxSteps": 12}, checkpoint={"everySteps": 2})
    )
    bench.wait(name, lambda body: checkpoint(body) >= 2, _SECONDS)
    bench.access.suspend(name, suspended=True)
    bench.wait(name, in_phase("Suspended"), 120)
    bench.until(lambda: not pods(bench, name), 90, "the end of the pods")
    stored = checkpoint(dict(bench.access.run(name)))
    bench.access.suspend(name, suspended=False)
    status = bench.result(name, _SECONDS)
    assert status["progress"]["step"] == 12
    assert status.get("restarts", 0) == 0
    assert [kind for kind, _, _ in bench.events(name) if kind == "Warning"] == []
    first = min(int(r) for r in reported_steps(bench, name))
    assert first >= stored
    delete(bench, name)


def checkpoint(body: Body) -> int:
    return int(((body.get("status") or {}).get("checkpoint") or {}).get("step") or 0)


def pods(bench: Bench, name: str) -> tuple[str, ...]:
    return tuple(child for child in bench.children(name) if child.startswith("pod/"))


def reported_steps(bench: Bench, name: str) -> list[int]:
    return [one.step for one in history(bench.access, look(bench.access, name))]


@pytest.mark.parametrize("path", sorted(install.SAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_apiserver_accepts_every_sample(bench: Bench, path: object) -> None:
    # In a namespace of their own: the Job of the tests' data has another image already.
    words = ("apply", "-n", "default", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert "server dry run" in platforms.kubectl(bench.platform, *words)
