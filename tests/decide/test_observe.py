"""API objects become what a decision reads, and endings become one cause."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenft_operator import names
from qwenft_operator.failure import Failure, cause_of, telling
from qwenft_operator.observe import Children, Observed, observe
from qwenft_operator.policies import POLICIES, Circumstances, judge
from qwenft_operator.run import Owner

OWNER = Owner(name="tiny", namespace="team", uid="u1")
NOW = 1_800_000_000.0


def labels(attempt: int = 1, index: int = 0, uid: str = "u1") -> dict[str, str]:
    return names.run_labels("tiny", uid) | {
        names.LABEL_ATTEMPT: str(attempt),
        names.LABEL_INDEX: str(index),
        names.LABEL_PLAN: "abc",
    }


def job(attempt: int = 1, **conditions: str) -> dict[str, Any]:
    found = [{"type": kind, "status": "True", "reason": why} for kind, why in conditions.items()]
    metadata = {"name": f"tiny-{attempt}", "uid": f"j{attempt}", "labels": labels(attempt)}
    return {"metadata": metadata, "spec": {"completions": 2}, "status": {"conditions": found}}


def pod(
    index: int = 0, *, code: int | None = None, at: str = "00", **report: Any
) -> dict[str, Any]:
    ended = {"exitCode": code, "finishedAt": f"2027-01-15T08:00:{at}Z", "reason": "Error",
             "message": json.dumps(report) if report else ""}  # fmt: skip
    state = {} if code is None else {"terminated": ended}
    return {
        "metadata": {"name": f"tiny-1-{index}", "uid": f"p{index}", "labels": labels(1, index)},
        "spec": {"nodeName": f"node-{index}"},
        "status": {
            "phase": "Running" if code is None else "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": names.CONTAINER, "state": state}],
        },
    }


def seen(*pods: dict[str, Any], **arguments: Any) -> Observed:
    children = Children(jobs=(job(1, Failed="BackoffLimitExceeded"),), pods=pods)
    return observe(OWNER, children, **arguments)


def cause(*pods: dict[str, Any]) -> Failure:
    observed = seen(*pods)
    return cause_of(observed, observed.jobs[0], NOW)


def test_pods_are_read_in_the_order_of_their_ranks() -> None:
    observed = seen(pod(1), pod(0))
    assert [item.index for item in observed.pods] == [0, 1]
    assert observed.latest == 1
    assert not observed.pods[0].over


def test_children_of_another_uid_are_foreign() -> None:
    other = job(7)
    other["metadata"]["labels"] = labels(7, uid="u0")
    observed = observe(OWNER, Children(jobs=(other, job(1))))
    assert observed.foreign == ("Job/tiny-7",)
    assert observed.latest == 1


def test_conditions_of_a_job() -> None:
    assert observe(OWNER, Children(jobs=(job(1, Complete=""),))).jobs[0].complete
    failed = observe(OWNER, Children(jobs=(job(1, Failed="DeadlineExceeded"),))).jobs[0]
    assert (failed.failed, failed.over) == ("DeadlineExceeded", True)
    failing = observe(OWNER, Children(jobs=(job(1, FailureTarget="PodFailurePolicy"),))).jobs[0]
    assert (failing.failing, failing.over) == (True, False)


def test_a_plan_that_cannot_be_read_is_skipped() -> None:
    body = {"metadata": {"name": "x", "labels": labels()}, "data": {"plan.json": "{"}}
    assert observe(OWNER, Children(config_maps=(body,))).plans == {}


def test_pods_on_lost_nodes_are_marked() -> None:
    observed = seen(pod(0), pod(1), lost_nodes=("node-1",))
    assert [item.node_lost for item in observed.pods] == [False, True]


def test_what_keeps_a_pod_from_starting_is_read() -> None:
    waiting = pod(0)
    reason = {"reason": "ErrImagePull", "message": "not found"}
    waiting["status"]["containerStatuses"][0]["state"] = {"waiting": reason}
    creating = pod(1)
    creating["status"]["containerStatuses"][0]["state"] = {
        "waiting": {"reason": "ContainerCreating"}
    }
    observed = seen(waiting, creating)
    assert [item.waiting for item in observed.pods] == ["ErrImagePull: not found", ""]


def test_the_scheduler_s_sentence_is_read() -> None:
    body = pod(0)
    del body["spec"]["nodeName"]
    body["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}
    ]
    assert seen(body).pods[0].unscheduled == "0/2 nodes are available"


def test_the_earliest_ending_is_the_cause() -> None:
    found = cause(pod(0, code=70, at="09", message="late"), pod(1, code=67, at="05", message="nan"))
    assert (found.exit_code, found.message, found.pod, found.node) == (
        67,
        "nan",
        "tiny-1-1",
        "node-1",
    )


@pytest.mark.parametrize("consequence", [69, 64, 143, 137])
def test_consequences_are_not_the_cause_even_when_they_are_seen_first(consequence: int) -> None:
    found = cause(pod(0, code=consequence, at="03"), pod(1, code=70, at="04"))
    assert found.exit_code == 70


def test_an_ending_within_one_second_is_told_by_how_telling_it_is() -> None:
    assert cause(pod(0, code=69, at="05"), pod(1, code=65, at="05")).exit_code == 65


def deleted(body: dict[str, Any]) -> dict[str, Any]:
    body["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    return body


def suspicion(*pods: dict[str, Any], **conditions: str) -> Failure | None:
    observed = observe(OWNER, Children(jobs=(job(1, **conditions),), pods=pods))
    return telling(observed.jobs[0], observed.pods, NOW)


def test_a_pod_that_somebody_deletes_is_remembered_before_it_is_gone() -> None:
    found = suspicion(pod(0), deleted(pod(1)))
    assert found is not None
    assert (found.reason, found.pod, found.node) == ("PodDeleted", "tiny-1-1", "node-1")


def test_a_pod_that_the_job_deletes_is_no_cause() -> None:
    assert suspicion(pod(0), deleted(pod(1)), FailureTarget="BackoffLimitExceeded") is None
    assert suspicion(pod(0, code=69), deleted(pod(1))) is None


def test_a_pod_that_suspending_deletes_is_no_cause() -> None:
    suspended = job(1)
    suspended["spec"]["suspend"] = True
    observed = observe(OWNER, Children(jobs=(suspended,), pods=(pod(0), deleted(pod(1)))))
    assert telling(observed.jobs[0], observed.pods, NOW) is None


def test_lost_connections_alone_are_a_cause() -> None:
    assert cause(pod(0, code=69, at="05"), pod(1, code=69, at="04")).pod == "tiny-1-1"


HUNG = {"exitCode": 69, "reason": "Hung", "rank": 3, "message": "no sign of life for 600 s"}


def test_the_pod_whose_rank_stood_still_is_the_cause_and_not_those_that_lost_it_first() -> None:
    lost = {"exitCode": 69, "reason": "CommunicationFailure", "rank": 0, "message": "reset"}
    found = cause(pod(0, code=69, at="04", **lost), pod(1, code=69, at="05", **HUNG))
    assert (found.reason, found.rank, found.pod, found.node) == ("Hung", 3, "tiny-1-1", "node-1")
    assert not found.may_be_consequence
    assert cause(pod(0, code=69, at="04", **lost)).may_be_consequence


def test_a_rank_that_stood_still_is_remembered_before_its_pod_is_gone() -> None:
    found = suspicion(pod(0), deleted(pod(1, code=69, at="05", **HUNG)))
    assert found is not None
    assert (found.reason, found.rank, found.exit_code) == ("Hung", 3, 69)


def test_a_script_that_calls_itself_hung_is_judged_by_its_exit_code() -> None:
    found = cause(pod(0, code=64, at="04", reason="Hung"), pod(1, code=70, at="05"))
    assert (found.pod, found.exit_code) == ("tiny-1-1", 70)


def test_memory_kills_are_told_from_other_kills() -> None:
    body = pod(0, code=137, at="02")
    body["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    found = cause(body, pod(1, code=70, at="03"))
    assert (found.reason, found.exit_code) == ("OOMKilled", 137)


def test_an_eviction_is_a_disruption() -> None:
    body = pod(0, code=143, at="02")
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    body["status"]["conditions"] = [condition]
    found = cause(body)
    assert (found.reason, "EvictionByEvictionAPI" in found.message) == ("Disrupted", True)


def test_a_message_that_is_no_json_is_kept_as_it_is() -> None:
    body = pod(0, code=1)
    body["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = "Traceback: boom"
    found = cause(body)
    assert (found.reason, found.message) == ("WorkerError", "Traceback: boom")


def test_a_pod_that_vanished_is_named_as_such() -> None:
    assert cause().reason == "PodDeleted"


def test_a_failure_survives_the_status() -> None:
    found = Failure(attempt=2, reason="X", message="m", rank=3, pod="p", node="n", exit_code=70,
                    step=9, time=NOW)  # fmt: skip
    assert Failure.from_status(found.to_status()) == found
    assert found.where == "rank 3 (pod p on n)"


def test_a_long_message_is_cut() -> None:
    found = Failure(attempt=1, reason="X", message="x" * 9000)
    assert len(found.to_status()["message"]) == 1024


def test_every_failure_gets_a_verdict() -> None:
    for code in (None, 0, 1, 64, 65, 66, 67, 68, 69, 70, 137, 139, 143):
        for reason in ("Unknown", "NodeLost", "OOMKilled", "Disrupted", "Unschedulable"):
            failure = Failure(attempt=1, reason=reason, message="", exit_code=code)
            circumstances = Circumstances(failure=failure, trained=True)
            verdict = judge(circumstances, retries=3, backoff_limit=3)
            assert verdict.advice
            assert not (verdict.restart and verdict.counted)


def test_rules_are_documented() -> None:
    assert len({policy.cause for policy in POLICIES}) == len(POLICIES)
    assert all(policy.decision for policy in POLICIES)
