"""The page about the operator's cost: what was not met is not hidden."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bare import kubeflow, limits, page, picture, stored
from bare.bench import SCENARIOS
from bare.fleet import speed


def fleet(runs: int, **changes: Any) -> dict[str, Any]:
    found = {
        "runs": runs, "pods_each": 10, "runs_with_all_pods": runs, "seconds_to_all_pods": runs / 10,
        "pods_per_second": 100.0, "p50_seconds": 1.0, "p99_seconds": 2.0, "writes_per_run": 7.0,
        "cpu_seconds": runs / 20, "resident_mib": 100, "peak_mib": 120, "idle_cpu_percent": 0.5,
        "idle_writes": 0, "load": 3,
    }  # fmt: skip
    return found | changes


def test_growth_is_drawn_through_all_sizes_in_their_order() -> None:
    known = {
        "thousand": fleet(1000),
        "growth": {"10": fleet(10), "100": fleet(100), "load": 2},
        "quarter": fleet(250),
        "hundred": fleet(100, pods_each=4),
    }
    assert [each["runs"] for each in page._points(known)] == [10, 100, 250, 1000]
    told = page.text(known)
    assert "| 1,000 | 100.0 s | 100.0 | 50.0 s | 50 ms | 120 MiB |" in told
    assert "performance_operator.svg" in told


def test_one_size_is_no_growth() -> None:
    assert "## Growth" not in page.text({"quarter": fleet(250)})


def test_a_line_of_linear_growth_is_straight() -> None:
    drawn = ET.fromstring(picture.growth([fleet(10), fleet(100), fleet(1000)]))  # noqa: S314
    line = drawn.find("{*}polyline")
    assert line is not None
    (x0, y0), (x1, y1), (x2, y2) = (
        tuple(map(float, each.split(","))) for each in line.attrib["points"].split()
    )
    assert (y1 - y0) / (x1 - x0) == pytest.approx((y2 - y0) / (x2 - x0), rel=0.02)
    assert x0 < x1 < x2
    assert y0 > y1 > y2, "up is more"


def test_a_fleet_that_took_no_time_can_be_drawn() -> None:
    none = {"seconds_to_all_pods": 0, "cpu_seconds": 0}
    assert "polyline" in picture.growth([fleet(1, **none), fleet(2, **none)])


@pytest.mark.parametrize(("rate", "verdict"), [(10.0, "met"), (10.1, "**not met**")])
def test_the_comparison_tells_whether_it_was_met(rate: float, verdict: str) -> None:
    known = {"hundred": fleet(100), "trainer": fleet(100, pods_per_second=rate)}
    assert f"required: 10 times, {verdict}." in page.text(known)


def test_without_both_sides_nothing_is_compared() -> None:
    assert "Beside Kubeflow" not in page.text({"hundred": fleet(100)})


@pytest.mark.parametrize(("settled", "word"), [(True, "settled"), (False, "not settled")])
def test_a_restart_that_did_not_settle_is_told_as_such(*, settled: bool, word: str) -> None:
    again = {"restart_settled": settled, "restart_seconds": 9.5, "restart_writes": 0,
             "restart_peak_mib": 150}  # fmt: skip
    told = page.text({"thousand": fleet(1000, **again)})
    assert f": {word} 9.5 s after its process began, 0 writes, peak 150 MiB." in told


def test_pods_that_never_came_are_not_counted() -> None:
    assert speed(4, 10, [1.0, 2.0], 10.0)["pods_per_second"] == 2.0
    assert speed(4, 10, [], 10.0)["p50_seconds"] is None


def test_every_scenario_says_what_it_does() -> None:
    assert list(SCENARIOS) == ["hundred", "trainer", "wide", "restarts", "reports", "growth",
                               "quarter", "thousand"]  # fmt: skip
    assert all(scenario.__doc__ for scenario in SCENARIOS.values())


def test_a_job_of_kubeflow_has_as_many_pods_as_a_run() -> None:
    replicas = kubeflow.job("a", "team", 4)["spec"]["pytorchReplicaSpecs"]
    assert sum(each["replicas"] for each in replicas.values()) == 4


WIDE = {
    "plan": "1000×8", "seconds_to_job": 0.5, "pods_after_job_seconds": 6.0, "ready": "1000/1000",
    "status_bytes": 5000, "writes": {}, "resident_mib": 100, "peak_mib": 110, "cpu_seconds": 5.0,
    "idle_cpu_percent": 0.0, "idle_writes": 0, "alone_own_seconds": 4.0, "alone_least_seconds": 3.0,
}  # fmt: skip


@pytest.mark.parametrize(("seconds", "verdict"), [(5.0, "met"), (5.1, "**not met**")])
def test_a_wide_run_s_pods_are_held_against_the_limit(seconds: float, verdict: str) -> None:
    told = page.text({"wide": WIDE | {"pods_after_job_seconds": seconds}})
    assert f"within 5 s of the plan, {verdict}." in told


def test_what_the_job_controller_takes_by_itself_is_told_as_a_ratio() -> None:
    told = page.text({"wide": WIDE})
    assert "4.0 s until all their pods exist" in told
    assert "1.50 times" in told
    assert "2.00 times" in told
    without = {key: value for key, value in WIDE.items() if not key.startswith("alone")}
    assert "without operator" not in page.text({"wide": without})


@pytest.mark.parametrize("name", ["run-0007-1-0-x8k2p", "run-0007-worker-0"])
def test_pods_are_counted_by_their_run_whoever_made_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "names_of", lambda *_: [name, "run-0008-master-0"])
    assert stored.pods_by_run(None, "team") == {"run-0007": 1, "run-0008": 1}  # type: ignore[arg-type]


def test_a_job_is_made_anew_without_what_its_controller_has_added() -> None:
    labels = {
        "batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "j",
        "job-name": "j", "controller-uid": "u", "qwenft.dev/run": "tiny",
    }  # fmt: skip
    spec = {
        "selector": {"matchLabels": labels}, "suspend": False, "completions": 2,
        "template": {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never"}},
    }  # fmt: skip
    assert limits.stripped(spec) == {
        "completions": 2,
        "template": {
            "metadata": {"labels": {"qwenft.dev/run": "tiny"}},
            "spec": {"restartPolicy": "Never"},
        },
    }
    assert spec["suspend"] is False, "the given one is left as it is"


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, 0),
        ({"runs_with_all_pods": 999}, 1),
        ({"peak_mib": 201}, 1),
        ({"idle_cpu_percent": 2.0}, 1),
        ({"idle_writes": 1}, 1),
        ({"restart_seconds": 60.0}, 1),
        ({"restart_settled": False}, 1),
    ],
)
def test_what_is_required_of_a_thousand_runs_is_told_with_its_verdict(
    changes: dict[str, Any], missed: int
) -> None:
    again = {"restart_settled": True, "restart_seconds": 9.5, "restart_writes": 0,
             "restart_peak_mib": 150}  # fmt: skip
    told = page.text({"thousand": fleet(1000, **again) | changes})
    assert told.count("**not met**") == missed
    assert told.count("| met |") == 5 - missed
