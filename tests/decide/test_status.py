"""The status: conditions by the conventions, blocks that stay small, numbers that can be read."""

from __future__ import annotations

from typing import Any

import pytest

from qwenft_operator.history import History
from qwenft_operator.observe import PodView
from qwenft_operator.run import Run
from qwenft_operator.status import (
    Report,
    compose,
    progress_blocks,
    result_block,
    workers_block,
)
from qwenft_plan.progress import Progress
from simulated import run_body

NOW = 1_800_000_000.0
LATER = NOW + 60
PHASES = ("Pending", "Queued", "Starting", "Training", "Restarting", "Suspended", "Succeeded",
          "Failed")  # fmt: skip
TYPES = {"Planned", "Ready", "Reconciling", "Stalled", "Succeeded", "Suspended"}


def run_of(status: dict[str, Any] | None = None, generation: int = 1) -> Run:
    body = run_body()
    body["metadata"] |= {"uid": "u", "generation": generation}
    return Run.from_object(body | {"status": status or {}})


def composed(
    phase: str, status: dict[str, Any] | None = None, now: float = NOW, **report: Any
) -> dict[str, Any]:
    fields = {"reason": "Because", "message": "so it is"} | report
    generation = fields.pop("generation", 1)
    return compose(run_of(status, generation), Report(phase=phase, **fields), now)


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["type"]: item for item in status["conditions"]}


@pytest.mark.parametrize("phase", PHASES)
def test_all_conditions_are_there_from_the_first_write(phase: str) -> None:
    found = conditions(composed(phase))
    assert set(found) == TYPES
    for condition in found.values():
        assert condition["status"] in ("True", "False", "Unknown")
        assert condition["reason"]
        assert condition["observedGeneration"] == 1
        assert condition["lastTransitionTime"] == "2027-01-15T08:00:00Z"


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("Pending", {"Ready": "False", "Reconciling": "True", "Succeeded": "Unknown"}),
        ("Queued", {"Ready": "False", "Reconciling": "True", "Stalled": "False"}),
        ("Starting", {"Ready": "False", "Reconciling": "True"}),
        ("Training", {"Ready": "True", "Reconciling": "False", "Succeeded": "Unknown"}),
        ("Restarting", {"Ready": "False", "Reconciling": "True", "Stalled": "False"}),
        ("Suspended", {"Suspended": "True", "Reconciling": "False"}),
        ("Succeeded", {"Succeeded": "True", "Ready": "True", "Reconciling": "False"}),
        ("Failed", {"Succeeded": "False", "Stalled": "True", "Ready": "False"}),
    ],
)
def test_each_phase_is_a_set_of_conditions(phase: str, expected: dict[str, str]) -> None:
    found = {kind: item["status"] for kind, item in conditions(composed(phase)).items()}
    assert expected.items() <= found.items()


def test_never_reconciling_and_stalled_at_once() -> None:
    for phase in PHASES:
        found = {kind: item["status"] for kind, item in conditions(composed(phase)).items()}
        assert not (found["Reconciling"] == found["Stalled"] == "True")
        assert not (found["Ready"] == found["Stalled"] == "True")


def test_pods_that_still_end_keep_a_run_from_being_suspended() -> None:
    found = conditions(composed("Suspended", settled=False))
    assert found["Suspended"]["status"] == "False"
    assert found["Reconciling"]["status"] == "True"


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    first = composed("Starting")
    second = composed("Training", first, LATER)
    found = conditions(second)
    assert found["Ready"]["lastTransitionTime"] == "2027-01-15T08:01:00Z"
    assert found["Stalled"]["lastTransitionTime"] == "2027-01-15T08:00:00Z"


def test_an_unchanged_report_gives_an_unchanged_status() -> None:
    first = composed("Training")
    assert composed("Training", first, LATER) == first


def test_a_new_generation_reaches_every_condition() -> None:
    first = composed("Training")
    second = composed("Training", first, generation=2)
    assert second["observedGeneration"] == 2
    assert {item["observedGeneration"] for item in second["conditions"]} == {2}


def test_the_plan_s_reason_outlives_the_run_s() -> None:
    first = composed("Starting", planned="True", message="2×8 H100, the fastest of 12")
    second = composed("Training", first, LATER, message="attempt 1 trains")
    planned = conditions(second)["Planned"]
    assert (planned["status"], planned["reason"]) == ("True", "Planned")
    assert planned["message"] == "2×8 H100, the fastest of 12"


def test_no_plan_has_its_own_reason() -> None:
    found = conditions(composed("Pending", planned="False", reason="Infeasible"))
    assert (found["Planned"]["status"], found["Planned"]["reason"]) == ("False", "Infeasible")


def test_fields_are_kept_changed_and_dropped() -> None:
    first = composed("Training", changes={"attempt": 1, "completionTime": "x"})
    second = composed("Training", first, changes={"completionTime": None, "restarts": 2})
    assert (second["attempt"], second["restarts"]) == (1, 2)
    assert "completionTime" not in second


def test_a_long_message_is_cut_to_what_the_definition_allows() -> None:
    status = composed("Failed", message="x" * 5000)
    assert len(status["message"]) == 1024
    assert all(len(item["message"]) <= 1024 for item in status["conditions"])


def pod(index: int, **fields: Any) -> PodView:
    given: dict[str, Any] = {"phase": "Running", "attempt": 1} | fields
    return PodView(name=f"p-{index}", uid=f"u{index}", index=index, **given)


def test_workers_are_counted_and_named() -> None:
    pods = (pod(0, ready=True, node="a"), pod(1, node="b"), pod(2, phase="Succeeded", exit_code=0))
    block = workers_block(pods, 3)
    assert (block["ready"], block["total"]) == ("2/3", 3)
    assert block["pods"][0] == {"name": "p-0", "rank": 0, "node": "a", "phase": "Running"}
    assert block["pods"][2]["exitCode"] == 0


def test_a_thousand_workers_show_sixteen_and_the_failed_ones_among_them() -> None:
    pods = tuple(pod(i, phase="Failed" if i == 777 else "Running") for i in range(1000))
    block = workers_block(pods, 1000)
    assert len(block["pods"]) == 16
    assert "p-777" in {item["name"] for item in block["pods"]}
    assert block["pods"] == sorted(block["pods"], key=lambda item: item["rank"])


def test_a_pod_on_a_lost_node_is_shown_as_lost() -> None:
    (shown,) = workers_block((pod(0, node_lost=True, node="a"),), 1)["pods"]
    assert shown["phase"] == "Lost"


def test_a_waiting_pod_shows_its_reason() -> None:
    (shown,) = workers_block((pod(0, phase="Pending", waiting="ErrImagePull: no"),), 1)["pods"]
    assert shown["reason"] == "ErrImagePull"


def test_progress_is_parted_into_its_blocks_and_rounded() -> None:
    report = Progress(
        attempt=2, step=10, total_steps=40, loss=5.3286004066467285, tokens_per_second=748.1531645,
        memory_gib=1.0977668, mfu=0.65822, checkpoint_step=8, plan_digest="abc",
    )  # fmt: skip
    blocks = progress_blocks(report, NOW)
    assert blocks["progress"] == {
        "attempt": 2, "step": 10, "totalSteps": 40, "loss": 5.3286,
        "lastUpdatedTime": "2027-01-15T08:00:00Z",
    }  # fmt: skip
    assert blocks["measured"] == {"memoryGiB": 1.09777, "tokensPerSecond": 748.153, "mfu": 0.65822}
    assert blocks["checkpoint"] == {"step": 8}


def test_what_a_save_cost_stands_beside_its_step() -> None:
    report = Progress(
        attempt=1, step=10, total_steps=40, checkpoint_step=8, checkpoint_seconds=61.23456789,
        checkpoint_blocked_seconds=2.5, data_wait_seconds=0.0012345678, predicted_memory_gib=61.3,
    )  # fmt: skip
    blocks = progress_blocks(report, NOW)
    assert blocks["checkpoint"] == {"step": 8, "seconds": 61.2346, "blockedSeconds": 2.5}
    assert blocks["progress"]["dataWaitSeconds"] == 0.00123457
    assert "predictedMemoryGiB" not in blocks["progress"]


def test_a_save_that_nobody_can_find_yet_has_no_block() -> None:
    report = Progress(attempt=1, step=10, total_steps=40, checkpoint_blocked_seconds=2.5)
    assert set(progress_blocks(report, NOW)) == {"progress"}


def test_what_is_not_measured_has_no_block() -> None:
    blocks = progress_blocks(Progress(attempt=1, step=0, total_steps=1), NOW)
    assert set(blocks) == {"progress"}


def test_the_result_comes_from_the_first_rank_and_keeps_known_fields() -> None:
    result = {"steps": 60, "finalLoss": 5.32860040, "outputPath": "/data/out", "odd": 1, "x": {}}
    first = pod(0, phase="Succeeded", exit_code=0, report={"result": result})
    other = pod(1, phase="Succeeded", exit_code=0, report={"result": {"steps": 1}})
    found = result_block((other, first))
    assert found == {"steps": 60, "finalLoss": 5.3286, "outputPath": "/data/out"}


@pytest.mark.parametrize(
    "report", [{}, {"result": None}, {"result": [1]}, {"message": "no JSON was written"}]
)
def test_without_a_message_there_is_no_result(report: dict[str, Any]) -> None:
    assert result_block((pod(0, phase="Succeeded", exit_code=0, report=report),)) is None
    assert result_block(()) is None


def test_the_history_reads_back_what_must_be_remembered() -> None:
    failure = {"attempt": 1, "reason": "NodeLost", "message": "m", "node": "n",
               "time": "2027-01-15T08:00:00Z"}  # fmt: skip
    history = History.from_status(
        {
            "phase": "Training", "attempt": 2, "restarts": 1, "retries": 1,
            "failures": [failure], "failure": failure, "memoryBudgetGiB": 12.5,
            "suspendedAttempt": 1,
            "startTime": "2027-01-15T08:00:00Z",
            "plan": {"digest": "abc", "nodes": 4, "predicted": {"memoryGiB": 20.0}},
            "progress": {"attempt": 2, "step": 30, "totalSteps": 40,
                         "estimatedRemainingSeconds": 50.0},
        }
    )  # fmt: skip
    assert (history.attempt, history.restarts, history.retries) == (2, 1, 1)
    assert history.failure_of(1) is not None
    assert history.failure_of(2) is None
    assert history.suspect is None, "the failure of a judged attempt is no suspicion"
    assert (history.plan, history.plan_nodes, history.plan_memory) == ("abc", 4, 20.0)
    assert (history.trained_attempt, history.step) == (2, 30)
    assert history.seconds_per_step == 5.0
    assert history.memory_budget == 12.5
    assert history.suspended_attempt == 1
    assert history.started_at == NOW


def test_a_new_run_has_no_history() -> None:
    history = History.from_status({})
    assert (history.phase, history.attempt, history.failures) == ("", 0, ())
    assert history.trained_attempt == 0
    assert history.failed_nodes() == ()


@pytest.mark.parametrize(
    ("nodes", "reasons", "failed"),
    [
        (("a", "a"), ("WorkerError", "NodeLost"), ("a",)),
        (("a", "b"), ("WorkerError", "WorkerError"), ()),
        (("a", "a"), ("Preempted", "Preempted"), ()),
        (("a", "a", "b", "b"), ("NodeLost",) * 4, ("a", "b")),
        (("", ""), ("WorkerError", "WorkerError"), ()),
    ],
)
def test_a_node_is_suspected_after_two_failures_of_its_own(
    nodes: tuple[str, ...], reasons: tuple[str, ...], failed: tuple[str, ...]
) -> None:
    failures = [
        {"attempt": number, "node": node, "reason": reason, "message": ""}
        for number, (node, reason) in enumerate(zip(nodes, reasons, strict=True), 1)
    ]
    assert History.from_status({"failures": failures}).failed_nodes() == failed


def test_a_suspicion_is_kept_until_it_is_judged() -> None:
    entry = {"attempt": 3, "reason": "WorkerError", "message": "m"}
    history = History.from_status({"failure": entry, "failures": []})
    assert history.suspect is not None
    assert history.suspect.attempt == 3
