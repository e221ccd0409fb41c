"""What a run's status teaches: once, of its own measurement, against the uncorrected prediction."""

from __future__ import annotations

from typing import Any

import pytest

from qwenft_operator.experience import finding_of
from qwenft_operator.run import Run
from simulated import run_body

KIND = "CPU.llama.full.fp32.tp1.pp1.none"
PREDICTED = {"memoryGiB": 2.0, "tokensPerSecond": 1000.0, "mfu": 0.4}


def finished(**changes: Any) -> Run:
    """Return a run that succeeded; keyword arguments replace fields of its status, None drops."""
    status: dict[str, Any] = {
        "phase": "Succeeded",
        "completionTime": "2026-11-24T12:31:15Z",
        "plan": {"kind": KIND, "predicted": PREDICTED},
        "measured": {"memoryGiB": 1.8, "tokensPerSecond": 950.0, "mfu": 0.38},
        "result": {"steps": 100, "memoryGiB": 1.9, "tokensPerSecond": 900.0},
    }
    status = {key: value for key, value in (status | changes).items() if value is not None}
    body = run_body()
    body["metadata"] |= {"uid": "uid-7"}
    return Run.from_object(body | {"status": status})


def test_a_finished_run_teaches_its_result() -> None:
    finding = finding_of(finished())
    assert finding is not None
    assert finding.kind == KIND
    assert finding.experience.run == "uid-7"
    assert finding.experience.ended == "2026-11-24T12:31:15Z"
    assert finding.experience.speed.ratio == pytest.approx(0.9)
    assert finding.experience.memory.ratio == pytest.approx(0.95)
    assert finding.experience.mfu is not None
    assert finding.experience.mfu.measured == 0.38


def test_without_numbers_in_the_result_the_last_report_counts() -> None:
    finding = finding_of(finished(result={"steps": 100}))
    assert finding is not None
    assert finding.experience.speed.measured == 950.0
    assert finding.experience.memory.measured == 1.8


def test_a_corrected_prediction_is_compared_as_it_was_before() -> None:
    """Else a correction that is right would teach that none is needed, and swing for ever."""
    correction = {"speed": 0.9, "memory": 1.25, "runs": 4}
    plan = {"kind": KIND, "predicted": PREDICTED, "correction": correction}
    finding = finding_of(finished(plan=plan))
    assert finding is not None
    assert finding.experience.speed.predicted == pytest.approx(1000 / 0.9)
    assert finding.experience.speed.ratio == pytest.approx(0.81)
    assert finding.experience.memory.predicted == pytest.approx(1.6)


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": "Training"},
        {"phase": "Failed"},
        {"phase": None},
        {"lesson": {"speed": 0.9}},
        {"lesson": {}},
        {"plan": None},
        {"plan": {"predicted": PREDICTED}},
        {"plan": {"kind": KIND}},
        {"plan": {"kind": KIND, "predicted": PREDICTED | {"memoryGiB": 0}}},
        {"plan": {"kind": KIND, "predicted": PREDICTED, "correction": {"speed": 0.0}}},
        {"result": None},
        {"result": {"steps": 9, "memoryGiB": 1.9, "tokensPerSecond": 900.0}},
        {"result": {"steps": "many"}},
        {"result": {"steps": True}},
        {"measured": None, "result": {"steps": 100}},
        {"measured": "nothing", "result": {"steps": 100}},
        {"result": {"steps": 100, "memoryGiB": -1.0, "tokensPerSecond": 900.0}},
    ],
)
def test_a_run_that_has_nothing_to_teach_teaches_nothing(changes: dict[str, Any]) -> None:
    assert finding_of(finished(**changes)) is None


def test_the_status_tells_what_was_taught() -> None:
    finding = finding_of(finished())
    assert finding is not None
    assert finding.to_status() == {"kind": KIND, "speed": 0.9, "memory": 0.95}


def test_an_insane_measurement_is_told_and_not_believed() -> None:
    finding = finding_of(finished(result={"steps": 100, "tokensPerSecond": 1e9, "memoryGiB": 1.0}))
    assert finding is not None
    assert not finding.experience.is_sane
    told = finding.to_status()
    assert set(told) == {"kind", "ignored"}
    assert "measured 1e+09 tokens/s and 1 GiB where 1000 and 2 were predicted" in told["ignored"]
