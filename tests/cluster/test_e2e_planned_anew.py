"""A device that holds less than the plan expects, and objects that are not there."""

from __future__ import annotations

from typing import Any

import pytest

from endtoend import files
from endtoend.bench import Bench, finished, in_phase
from endtoend.recovering import SECONDS
from endtoend.runs import Body, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(1500)]
ALONE = {"nodes": {"min": 1, "max": 1}}
WIDE = {"batchSize": 32, "sequenceLength": 512}
"""Rows whose activations are most of the memory: smaller micro-batches need less."""


def cramped(bench: Bench, name: str, gibibytes: float) -> Body:
    """Return a run on a device that holds so much; no GPU is at hand, so its script plays one."""
    bench.script("cramming", files.CRAMMING)
    trainer = {"script": {"configMap": {"name": "cramming"}}, "args": [str(gibibytes)]}
    return tiny(name, training=WIDE, resources=ALONE, trainer=trainer)


def expected(status: Body) -> float:
    return float(status["plan"]["predicted"]["memoryGiB"])


def planned(bench: Bench, name: str) -> Body:
    """Return the status of the first plan."""
    body = bench.wait(name, lambda it: "plan" in (it.get("status") or {}), 60)
    return dict(body["status"])


def warnings(bench: Bench, name: str) -> str:
    return "\n".join(text for kind, _, text in bench.events(name) if kind == "Warning")


def test_a_device_that_is_full_gets_a_plan_that_needs_less(bench: Bench) -> None:
    name = bench.submit(cramped(bench, "crammed", 1.2))
    first = planned(bench, name)
    status = bench.result(name, SECONDS)
    failures: list[dict[str, Any]] = status["failures"]
    assert failures
    assert {(item["exitCode"], item["reason"]) for item in failures} == {(68, "OutOfMemory")}
    assert all("CUDA out of memory" in item["message"] for item in failures)
    assert expected(first) > 1.2 >= expected(status)
    assert status["attempt"] == len(failures) + 1
    assert "the next one may need" in warnings(bench, name)


def test_where_no_plan_needs_less_the_run_ends_with_the_numbers(bench: Bench) -> None:
    name = bench.submit(cramped(bench, "full", 0.1))
    status = bench.wait(name, finished, SECONDS)["status"]
    assert status["phase"] == "Failed"
    assert {item["exitCode"] for item in status["failures"]} == {68}
    assert "GiB" in status["message"]
    assert status["attempt"] < 5, "each plan needs a tenth less at least, so they end soon"


def test_an_image_that_is_not_there_ends_the_run_and_is_named(bench: Bench) -> None:
    image = "qwenft.dev/absent:none"
    name = bench.submit(tiny("no-image", resources=ALONE, trainer={"image": image}))
    status = bench.wait(name, finished, 400)["status"]
    assert (status["phase"], status["attempt"], status.get("restarts", 0)) == ("Failed", 1, 0)
    assert image in status["message"]


def test_a_volume_that_is_not_there_is_waited_for_a_minute_by_name(bench: Bench) -> None:
    claim = {"persistentVolumeClaim": {"claimName": "absent"}}
    dataset = {"path": "/elsewhere/tiny.pt", "volume": claim}
    name = bench.submit(tiny("no-volume", resources=ALONE, dataset=dataset))
    waiting = bench.wait(name, in_phase("Pending"), 30)["status"]
    assert "absent" in waiting["message"]
    status = bench.wait(name, finished, 180)["status"]
    assert (status["phase"], status.get("attempt", 0)) == ("Failed", 0)
    assert "absent" in status["message"]
    assert [child for child in bench.children(name) if child.startswith("job")] == []
