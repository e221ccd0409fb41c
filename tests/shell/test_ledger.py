"""What the metrics know of the runs: figures of a status, changes between two, bounded labels."""

from __future__ import annotations

from typing import Any

import pytest

from qwenft_operator import names
from qwenft_operator.clock import format_time
from qwenft_operator.ledger import OTHER, Figures, Ledger, change_of

NOW = 1_800_000_000.0


def body(name: str = "tiny", *, age: float = 60.0, **status: Any) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": f"uid-{name}",
        "creationTimestamp": format_time(NOW - age),
    }
    return {"metadata": metadata, "status": status}


TRAINING: dict[str, Any] = {
    "phase": "Training",
    "attempt": 2,
    "plan": {"predicted": {"memoryGiB": 3.0, "tokensPerSecond": 900, "mfu": 0.2}},
    "measured": {"memoryGiB": 2.0, "tokensPerSecond": 1000},
    "progress": {"step": 7, "totalSteps": 10, "loss": 1.5, "validationLoss": 1.6},
    "checkpoint": {"step": 5},
}


def test_figures_are_those_of_the_status() -> None:
    figures = Figures.from_object(body(**TRAINING))
    assert dict(figures.values) == {
        "attempt": 2.0,
        "step": 7.0,
        "total_steps": 10.0,
        "loss": 1.5,
        "validation_loss": 1.6,
        "tokens_per_second": 1000.0,
        "checkpoint_step": 5.0,
        "memory_bytes": 2.0 * 2**30,
    }


@pytest.mark.parametrize(("phase", "told"), [("Training", True), ("Suspended", False)])
def test_only_a_run_that_trains_has_time_left(phase: str, *, told: bool) -> None:
    status = {"phase": phase, "progress": {"step": 1, "estimatedRemainingSeconds": 60.0}}
    assert ("remaining_seconds" in dict(Figures.from_object(body(**status)).values)) is told


def test_the_error_of_a_plan_is_predicted_over_measured() -> None:
    errors = dict(Figures.from_object(body(**TRAINING)).errors)
    assert errors == {"memory": 1.5, "tokens_per_second": 0.9}, "no mfu was measured"


def test_nothing_measured_is_no_error() -> None:
    status = TRAINING | {"measured": {"memoryGiB": 0}}
    assert Figures.from_object(body(**status)).errors == ()


def test_a_run_without_a_status_is_pending() -> None:
    figures = Figures.from_object(body())
    assert (figures.phase, figures.values, figures.errors) == ("Pending", (), ())


@pytest.mark.parametrize(
    ("phase", "ended", "shown"),
    [
        ("Training", None, True),
        ("Suspended", None, True),
        ("Succeeded", NOW - 10, True),
        ("Failed", NOW - 10, True),
        ("Succeeded", NOW - 700, False),
        ("Failed", None, False),
    ],
)
def test_a_run_that_ended_long_ago_has_no_series(
    phase: str, ended: float | None, *, shown: bool
) -> None:
    status = {"phase": phase} | ({} if ended is None else {"completionTime": format_time(ended)})
    assert Figures.from_object(body(**status)).is_current(NOW) is shown


def test_every_phase_is_counted_also_where_no_run_is_in_it() -> None:
    ledger = Ledger()
    ledger.keep(Figures.from_object(body("a", phase="Training")))
    ledger.keep(Figures.from_object(body("b", phase="Training")))
    ledger.keep(Figures.from_object(body("b", phase="Failed")))
    phases = ledger.phases()
    assert (phases["Training"], phases["Failed"], phases["Queued"]) == (1, 1, 0)
    assert len(phases) == 8
    assert set(names.TERMINAL) < set(phases)


def test_a_dropped_run_is_forgotten_whole() -> None:
    ledger = Ledger()
    ledger.keep(Figures.from_object(body("a", phase="Training")))
    ledger.drop("team", "a")
    ledger.drop("team", "never-there")
    assert ledger.current(NOW, 10) == ()
    assert sum(ledger.phases().values()) == 0


def test_a_list_that_does_not_show_a_run_ends_it() -> None:
    ledger = Ledger()
    for name in ("a", "b"):
        ledger.keep(Figures.from_object(body(name, phase="Training")))
    ledger.retain([("team", "b"), ("team", "c")])
    assert [item.name for item in ledger.current(NOW, 10)] == ["b"]


def test_runs_in_training_come_first_where_not_all_can_be_shown() -> None:
    ledger = Ledger()
    for name, phase in (("a", "Queued"), ("b", "Queued"), ("z", "Training")):
        ledger.keep(Figures.from_object(body(name, phase=phase)))
    assert [item.name for item in ledger.current(NOW, 2)] == ["z", "a"]


def test_a_restart_is_counted_once_with_its_cause() -> None:
    before = body(phase="Training", restarts=0)
    after = {
        "phase": "Restarting",
        "restarts": 1,
        "failure": {"attempt": 1, "reason": "NodeLost"},
    }
    change = change_of(before, after, NOW)
    assert (change.restarts, change.cause, change.failed) == (1, "NodeLost", False)
    again = change_of(body(**after), after, NOW)
    assert (again.restarts, again.cause) == (0, "")


def test_a_failure_is_counted_when_it_comes() -> None:
    after = {"phase": "Failed", "failure": {"attempt": 1, "reason": "DatasetInvalid"}}
    change = change_of(body(phase="Training"), after, NOW)
    assert (change.failed, change.cause) == (True, "DatasetInvalid")
    assert not change_of(body(**after), after, NOW).failed


def test_a_failure_of_no_attempt_takes_its_condition_s_reason() -> None:
    after = {"phase": "Failed", "conditions": [{"type": "Stalled", "reason": "InvalidSpec"}]}
    assert change_of(body(), after, NOW).cause == "InvalidSpec"


@pytest.mark.parametrize("reason", ["whatever a script wrote", "", None, "x" * 900])
def test_a_reason_that_is_not_ours_makes_no_label(reason: str | None) -> None:
    after = {"phase": "Failed", "failure": {"attempt": 1, "reason": reason}}
    assert change_of(body(phase="Training"), after, NOW).cause == OTHER


@pytest.mark.parametrize("reason", sorted(names.REASONS.values()))
def test_every_reason_of_a_trainer_is_a_cause(reason: str) -> None:
    after = {"phase": "Failed", "failure": {"attempt": 1, "reason": reason}}
    assert change_of(body(), after, NOW).cause == reason


@pytest.mark.parametrize("reason", ["OOMKilled", "EvictionByEvictionAPI", "PreemptionByScheduler"])
def test_what_kubernetes_does_to_a_pod_is_a_cause_too(reason: str) -> None:
    after = {"phase": "Restarting", "restarts": 1, "failure": {"attempt": 1, "reason": reason}}
    assert change_of(body(phase="Training"), after, NOW).cause == reason


def test_convergence_is_told_at_the_first_step_and_never_again() -> None:
    first = change_of(body(age=42, phase="Starting"), {"progress": {"step": 1}}, NOW)
    assert first.waited == 42.0
    later = change_of(body(age=42, progress={"step": 1}), {"progress": {"step": 2}}, NOW)
    assert later.waited is None
    assert change_of(body(age=42), {"progress": {"step": 0}}, NOW).waited is None
    assert change_of(body(age=-5), {"progress": {"step": 1}}, NOW).waited == 0.0
