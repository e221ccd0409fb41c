"""Reports over real HTTPS: the newest only, with the token of the moment, never in the way."""

from __future__ import annotations

import io
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launching.https import Endpoint, endpoint, write_ca
from qwenft_plan.progress import Progress
from qwenft_trainer.report import Reporter

AGES = 3600.0
"""An interval that no test lives to see the end of."""


@pytest.fixture(name="operator")
def serve(tmp_path: Path) -> Iterator[Endpoint]:
    with endpoint(tmp_path) as found:
        yield found


def at(step: int) -> Progress:
    return Progress(attempt=1, step=step, total_steps=100, loss=2.0)


def reporter(found: Endpoint, *, interval: float = 0.0, **environ: str) -> Reporter:
    return Reporter(found.environ | environ, stream=io.StringIO(), interval=interval)


def steps(found: Endpoint) -> list[int]:
    return [request.body["qwenft"]["step"] for request in found.received]


def complaints(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("report: not delivered: ")]


def test_a_report_is_posted_as_json_with_the_pods_token(operator: Endpoint) -> None:
    report = reporter(operator)
    report.update(at(4))
    report.close()
    (request,) = operator.received
    assert request.path == "/apis/x/status"
    assert request.authorization == "Bearer first-token"
    assert request.content_type == "application/json"
    assert request.body["qwenft"] == at(4).to_mapping()
    assert request.body["trainerStatus"]["progressPercentage"] == 4


def test_a_renewed_token_is_used_from_the_next_report_on(operator: Endpoint) -> None:
    report = reporter(operator)
    report.update(at(1))
    operator.wait_for(1)
    operator.token.write_text("second-token", encoding="ascii")
    report.update(at(2))
    report.close()
    assert [request.authorization for request in operator.received] == [
        "Bearer first-token",
        "Bearer second-token",
    ]


def test_an_authority_renewed_while_the_run_lasts_is_trusted(
    operator: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = operator.ca.read_bytes()
    operator.ca.write_bytes(write_ca(tmp_path / "other").read_bytes())
    report = reporter(operator)
    report.update(at(1))
    report.close()
    assert operator.received == []
    operator.ca.write_bytes(right)
    report = reporter(operator)
    report.update(at(2))
    report.close()
    assert steps(operator) == [2]
    assert len(complaints(capsys)) == 1


def test_between_two_reports_only_the_newest_step_survives(operator: Endpoint) -> None:
    report = reporter(operator, interval=AGES)
    report.update(at(1))
    operator.wait_for(1)
    for step in range(2, 50):
        report.update(at(step))
    report.close()
    assert steps(operator) == [1, 49]


def test_reports_keep_their_distance(operator: Endpoint) -> None:
    interval = 0.3
    times: list[float] = []

    def note() -> int:
        times.append(time.monotonic())
        return 200

    operator.answer = note
    report = reporter(operator, interval=interval)
    for step in range(1, 4):
        report.update(at(step))
        operator.wait_for(step)
    report.close()
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    # A request's own time may shift the arrival by a little.
    assert min(gaps) > interval / 2


def test_training_goes_on_while_the_operator_does_not_answer(operator: Endpoint) -> None:
    held = threading.Event()

    def hold() -> int:
        assert held.wait(30)
        return 200

    operator.answer = hold
    report = reporter(operator)
    report.update(at(1))
    began = time.monotonic()
    for step in range(2, 1000):
        report.update(at(step))
    took = time.monotonic() - began
    assert operator.received == []
    held.set()
    report.close()
    assert took < 2.0
    assert steps(operator)[-1] == 999
    assert len(operator.received) <= 3


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_refusal_is_said_once_and_ends_nothing(
    operator: Endpoint, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    operator.answer = lambda: status
    report = reporter(operator)
    for step in range(1, 4):
        report.update(at(step))
        operator.wait_for(step)
    report.close()
    (line,) = complaints(capsys)
    assert str(status) in line


def test_after_it_worked_again_a_new_failure_is_said_again(
    operator: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter((500, 500, 200, 500))
    operator.answer = lambda: next(answers)
    report = reporter(operator)
    for step in range(1, 5):
        report.update(at(step))
        operator.wait_for(step)
    report.close()
    assert len(complaints(capsys)) == 2


def test_a_certificate_for_another_host_is_not_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(tmp_path, name="elsewhere.example") as found:
        report = reporter(found)
        report.update(at(1))
        report.close()
        assert found.received == []
    (line,) = complaints(capsys)
    assert "certificate" in line


@pytest.mark.parametrize("variable", ["TOKEN", "CA_CERT"])
def test_a_missing_file_costs_the_report_and_nothing_else(
    operator: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    gone = {f"KUBEFLOW_TRAINER_SERVER_{variable}": str(tmp_path / "gone")}
    report = reporter(operator, **gone)
    report.update(at(1))
    report.close()
    assert operator.received == []
    assert len(complaints(capsys)) == 1


def test_an_operator_that_is_not_there_costs_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    # Port 9 is the discard service's, where nobody listens.
    report = Reporter({"KUBEFLOW_TRAINER_SERVER_URL": "https://127.0.0.1:9/x"}, interval=0.0)
    report.update(at(1))
    report.close()
    assert len(complaints(capsys)) == 1


def test_close_sends_what_still_waits_and_may_be_called_again(operator: Endpoint) -> None:
    report = reporter(operator, interval=AGES)
    report.update(at(1))
    report.update(at(2))
    report.close()
    report.close()
    assert steps(operator)[-1] == 2


def test_every_step_is_a_json_line_on_the_log_whether_or_not_it_is_sent() -> None:
    log = io.StringIO()
    report = Reporter({}, stream=log)
    for step in range(1, 4):
        report.update(at(step))
    report.close()
    assert [json.loads(line) for line in log.getvalue().splitlines()] == [
        at(step).to_mapping() for step in range(1, 4)
    ]


def test_a_closed_log_ends_nothing(operator: Endpoint) -> None:
    log = io.StringIO()
    log.close()
    report = Reporter(operator.environ, stream=log, interval=0.0)
    report.update(at(1))
    report.close()
    assert steps(operator) == [1]


def test_the_result_goes_into_the_file_that_the_launcher_named(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    report = Reporter({"QWENFT_RESULT_FILE": str(path)}, stream=io.StringIO())
    report.finish({"steps": 80, "finalLoss": None})
    assert json.loads(path.read_text()) == {"steps": 80, "finalLoss": None}


def test_without_a_launcher_the_result_goes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Reporter({}, stream=io.StringIO()).finish({"steps": 80})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("result", [{"steps": object()}, {"steps": {1, 2}}])
def test_a_result_that_is_no_json_is_said_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], result: dict[str, object]
) -> None:
    path = tmp_path / "result.json"
    Reporter({"QWENFT_RESULT_FILE": str(path)}, stream=io.StringIO()).finish(result)
    assert len(complaints(capsys)) == 1


def test_a_result_that_cannot_be_written_is_said_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gone" / "result.json"
    Reporter({"QWENFT_RESULT_FILE": str(path)}, stream=io.StringIO()).finish({"steps": 1})
    assert len(complaints(capsys)) == 1
