"""Reports, run objects and the upstream protocol, each on its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenft_operator import names
from qwenft_operator.clock import format_time, parse_time
from qwenft_operator.reports import Reports
from qwenft_operator.run import Run
from qwenft_operator.upstream import progress_from_upstream
from qwenft_plan.errors import SpecError
from qwenft_plan.progress import Progress
from simulated import run_body


def report(attempt: int, step: int) -> Progress:
    return Progress(attempt=attempt, step=step, total_steps=100)


def test_the_newest_report_is_kept() -> None:
    reports = Reports()
    assert reports.newest("u") is None
    assert reports.put("u", report(1, 5))
    assert reports.put("u", report(1, 3)), "an older step is taken and ignored"
    assert reports.newest("u") == report(1, 5)
    assert reports.put("u", report(2, 1))
    assert reports.newest("u") == report(2, 1)


def test_a_report_of_the_same_step_may_add_to_it() -> None:
    reports = Reports()
    reports.put("u", report(1, 5))
    richer = Progress(attempt=1, step=5, total_steps=100, validation_loss=1.0)
    reports.put("u", richer)
    assert reports.newest("u") == richer


def test_attempts_behind_the_fence_are_refused() -> None:
    reports = Reports()
    reports.put("u", report(1, 5))
    reports.fence("u", 2)
    assert reports.newest("u") is None
    assert not reports.put("u", report(1, 6))
    assert reports.put("u", report(2, 1))
    reports.fence("u", 1)
    assert not reports.put("u", report(1, 9)), "a fence never moves back"


def test_runs_do_not_meet() -> None:
    reports = Reports()
    reports.put("a", report(1, 1))
    reports.fence("b", 7)
    assert reports.newest("a") == report(1, 1)
    reports.forget("a")
    assert reports.newest("a") is None
    assert not reports.put("b", report(6, 1))


def test_times_go_there_and_back() -> None:
    assert format_time(1_800_000_000.9) == "2027-01-15T08:00:00Z"
    assert parse_time("2027-01-15T08:00:00Z") == 1_800_000_000.0
    assert parse_time("2027-01-15T09:00:00.500000+01:00") == 1_800_000_000.5


@pytest.mark.parametrize("text", [None, "", "yesterday", 17, {}])
def test_what_is_no_time_is_none(text: object) -> None:
    assert parse_time(text) is None


def body(**metadata: Any) -> dict[str, Any]:
    found = run_body()
    found["metadata"] |= {"uid": "u1", "creationTimestamp": "2027-01-15T08:00:00Z"} | metadata
    return found


def test_a_run_is_read_from_its_object() -> None:
    run = Run.from_object(body(generation=4))
    assert (run.owner.name, run.owner.namespace, run.owner.uid) == ("tiny", "team", "u1")
    assert (run.generation, run.deleting, run.created_at) == (4, False, 1_800_000_000.0)
    assert run.spec is not None
    assert run.phase == ""


def test_a_run_being_deleted_is_known_as_such() -> None:
    assert Run.from_object(body(deletionTimestamp="2027-01-15T08:00:00Z")).deleting


def test_a_wrong_spec_is_an_error_with_its_path_and_no_exception() -> None:
    found = body()
    found["spec"]["training"]["batchSize"] = "many"
    run = Run.from_object(found)
    assert run.spec is None
    assert isinstance(run.error, SpecError)
    assert run.error.path == "spec.training.batchSize"


def test_an_empty_spec_is_an_error_too() -> None:
    found = body()
    del found["spec"]
    assert Run.from_object(found).error is not None


def test_run_json_holds_what_the_trainer_reads_and_no_more() -> None:
    run = Run.from_object(body())
    document = json.loads(run.owner.run_json())
    assert set(document["spec"]) == {"model", "dataset", "output", "training"}
    assert document["uid"] == "u1"
    assert run.owner.run_json() == Run.from_object(body()).owner.run_json()


def upstream(**status: Any) -> Progress:
    return progress_from_upstream(status, attempt=3)


def metrics(**values: Any) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def test_percent_stand_for_steps_where_none_are_counted() -> None:
    found = upstream(progressPercentage=40)
    assert (found.attempt, found.step, found.total_steps) == (3, 40, 100)


def test_counted_steps_are_better_than_percent() -> None:
    found = upstream(progressPercentage=25, metrics=metrics(step="30", total_steps="120"))
    assert (found.step, found.total_steps) == (30, 120)


def test_the_total_follows_from_step_and_percent() -> None:
    found = upstream(progressPercentage=25, metrics=metrics(current_step=30))
    assert found.total_steps == 120


def test_metrics_of_the_callback_are_known_by_their_names() -> None:
    values = {"loss": "1.5", "eval_loss": 1.25, "grad_norm": "0.5", "learning_rate": "1e-5",
              "epoch": 0.5}  # fmt: skip
    found = upstream(progressPercentage=1, metrics=metrics(**values))
    assert (found.loss, found.validation_loss, found.gradient_norm) == (1.5, 1.25, 0.5)
    assert (found.learning_rate, found.epoch) == (1e-5, 0.5)


@pytest.mark.parametrize("value", ["nan", "inf", "text", None, True, [], {}])
def test_metrics_that_are_no_numbers_are_left_out(value: Any) -> None:
    assert upstream(progressPercentage=1, metrics=metrics(loss=value)).loss is None


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"progressPercentage": "half"},
        {"progressPercentage": -1},
        {"progressPercentage": 2.0**60},
        {"metrics": "none"},
        {"metrics": [1, None, {"value": 1}]},
    ],
)
def test_a_report_of_no_progress_is_refused(status: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="progressPercentage"):
        progress_from_upstream(status, attempt=1)


def test_thousands_of_metrics_are_not_all_read() -> None:
    many = metrics(**{f"m{i}": 1 for i in range(1000)}) + metrics(loss=1.0)
    assert upstream(progressPercentage=1, metrics=many).loss is None


def test_names_are_functions_of_run_and_attempt() -> None:
    assert names.job("tiny", 3) == "tiny-3"
    assert names.config_map("tiny", "abc") == "tiny-plan-abc"
    assert names.service("tiny") == "tiny"
    assert names.selector("tiny") == "app.kubernetes.io/managed-by=qwenft,qwenft.dev/run=tiny"
    path = names.progress_path("team", "tiny")
    assert path == "/apis/qwenft.dev/v1alpha1/namespaces/team/qwenfinetunes/tiny/status"


def test_the_longest_names_are_valid_host_names() -> None:
    longest = "a" * 45
    pod = f"{names.job(longest, 999_999)}-{4095}"
    assert len(pod) <= 63
    assert len(names.config_map(longest, "0123456789")) <= 63
