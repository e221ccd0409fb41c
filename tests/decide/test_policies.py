"""Each rule decides what its row of the documentation says."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenft_operator.failure import Failure
from qwenft_operator.policies import (
    BEGINS_ANEW,
    ON_PURPOSE,
    POLICIES,
    Circumstances,
    Verdict,
    judge,
    table,
)
from qwenft_plan.plan import Plan, Predicted

DOCUMENT = Path(__file__).parents[2] / "docs" / "failures.md"
PLAN = Plan(
    world_size=1, nodes=1, processes_per_node=1, pp=1, dp_replicate=1, dp_shard=1, tp=1,
    micro_batch_size=4, gradient_accumulation_steps=1, global_batch_size=4, sequence_length=64,
    predicted=Predicted(memory_gib=50.0, tokens_per_second=1.0, mfu=0.1),
)  # fmt: skip


def verdict(
    code: int | None = None,
    reason: str = "Unknown",
    *,
    trained: bool = False,
    retries: int = 0,
    limit: int = 3,
    plan: Plan | None = PLAN,
    script: bool = False,
) -> Verdict:
    failure = Failure(attempt=1, reason=reason, message="m", exit_code=code)
    circumstances = Circumstances(failure=failure, trained=trained, plan=plan, script=script)
    return judge(circumstances, retries=retries, backoff_limit=limit)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (65, "DatasetInvalid"),
        (65, "OutputInvalid"),
        (66, "ModelInvalid"),
        (67, "NumericError"),
        (None, "ContainerNotCreated"),
    ],
)
def test_what_would_fail_again_stops(code: int | None, reason: str, *, trained: bool) -> None:
    found = verdict(code, reason, trained=trained)
    assert not found.restart
    assert found.advice


def test_an_output_that_is_refused_is_not_called_a_dataset() -> None:
    assert "spec.output" in verdict(65, "OutputInvalid").advice
    assert "spec.dataset" in verdict(65, "DatasetInvalid").advice


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (64, "Preempted"),
        (143, "Disrupted"),
        (None, "PodDeleted"),
        (None, "Unschedulable"),
    ],
)
def test_what_is_nobody_s_fault_restarts_uncounted(code: int | None, reason: str) -> None:
    found = verdict(code, reason, retries=99)
    assert (found.restart, found.counted) == (True, False)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (69, "CommunicationFailure"),
        (69, "Hung"),
        (None, "NodeLost"),
        (None, "JobDeleted"),
        (None, "Hung"),
        (137, "WorkerError"),
        (143, "WorkerError"),
    ],
)
def test_what_may_pass_restarts_counted_up_to_the_limit(code: int | None, reason: str) -> None:
    found = verdict(code, reason, retries=2)
    assert (found.restart, found.counted) == (True, True)
    last = verdict(code, reason, retries=3)
    assert not last.restart
    assert "backoffLimit of 3" in last.advice


def test_an_error_is_judged_by_whether_a_step_was_trained() -> None:
    assert not verdict(70, "WorkerError").restart
    assert verdict(70, "WorkerError", trained=True).restart
    assert not verdict(1, "WorkerError").restart


def test_out_of_memory_asks_for_a_tenth_less_than_was_expected() -> None:
    found = verdict(68, "OutOfMemory")
    assert (found.restart, found.memory_budget) == (True, 45.0)
    assert "expected 50.00 GiB a device at micro-batch 4" in found.advice


def test_out_of_memory_without_an_expectation_cannot_be_planned_anew() -> None:
    found = verdict(68, "OutOfMemory", plan=None)
    assert (found.restart, found.memory_budget) == (False, None)
    assert "microBatchSize" in found.advice


def test_no_restarts_at_all_may_be_asked_for() -> None:
    assert not verdict(69, limit=0).restart
    assert verdict(64, limit=0).restart


def test_the_document_is_the_code_s() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    if os.environ.get("REGOLD"):
        text = text[: text.index("| cause")] + table()
        DOCUMENT.write_text(text, encoding="utf-8")
    assert text.endswith(table())
    assert table().count("\n") == len(POLICIES) + len(ON_PURPOSE) + 2


def judged(code: int | None, reason: str = "Unknown", **known: Any) -> Verdict:
    failure = Failure(attempt=1, reason=reason, message="m", exit_code=code)
    circumstances = Circumstances(failure=failure, trained=True, **known)
    return judge(circumstances, retries=0, backoff_limit=3)


def test_a_non_finite_loss_goes_back_one_checkpoint_once() -> None:
    first = judged(67, checkpoint_step=40)
    assert (first.restart, first.counted, first.before_step) == (True, True, 40)
    assert "older than that of step 40" in first.advice
    again = judged(67, checkpoint_step=20, went_back=True)
    assert (again.restart, again.before_step) == (False, None)
    assert "came again" in again.advice


@pytest.mark.parametrize("step", [None, 0])
def test_without_a_checkpoint_there_is_nothing_to_go_back_to(step: int | None) -> None:
    found = judged(67, checkpoint_step=step)
    assert not found.restart
    assert "learningRate" in found.advice


def test_a_host_s_memory_is_asked_for_once_more() -> None:
    first = judged(137, "OOMKilled", memory_request=2 * 2**30)
    assert (first.restart, first.memory_request) == (True, 3 * 2**30)
    assert "asks for 3.00 GiB a node instead of 2.00" in first.advice
    again = judged(137, "OOMKilled", memory_request=3 * 2**30, memory_raised=True)
    assert not again.restart
    assert "3.00 GiB, already raised, are not enough" in again.advice


def test_a_rank_over_the_container_s_limit_is_no_full_device_whoever_tells() -> None:
    """Where the kernel kills a rank and not the launcher, that one says it, with code 68."""
    asked = 2 * 2**30
    assert judged(68, "OOMKilled", memory_request=asked).memory_request == asked * 3 // 2
    assert not judged(68, "OOMKilled", memory_request=asked, memory_raised=True).restart
    assert judged(68, "OutOfMemory", memory_request=asked).memory_request is None


def test_a_pod_without_a_limit_was_killed_because_the_node_was_full() -> None:
    found = judged(137, "OOMKilled")
    assert (found.restart, found.memory_request) == (False, None)
    assert "the node itself" in found.advice


@pytest.mark.parametrize(
    ("code", "reason"), [(64, "Preempted"), (69, "NodeLost"), (70, "WorkerError")]
)
def test_no_script_is_said_to_go_on_from_a_checkpoint(code: int, reason: str) -> None:
    loop = verdict(code, reason, trained=True)
    script = verdict(code, reason, trained=True, script=True)
    assert loop.advice == "goes on from the last checkpoint"
    assert script.advice == BEGINS_ANEW
    assert replace(script, advice=loop.advice) == loop


def test_the_page_that_a_restarted_script_is_told_of_is_there() -> None:
    (page,) = re.findall(r"\((docs/.*\.md)\)", BEGINS_ANEW)
    assert "not resumed" in (DOCUMENT.parents[1] / page).read_text()
