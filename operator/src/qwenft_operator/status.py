"""The status that people and tools read: phase, conditions, plan, progress. Pure.

Conditions follow the Kubernetes API conventions and kstatus: all are present from the first write,
``Stalled`` means that only a person can help, ``Reconciling`` that the operator is at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from qwenft_operator import names
from qwenft_operator.clock import format_time
from qwenft_operator.observe import PodView
from qwenft_operator.run import Run
from qwenft_plan.hardware import GIB
from qwenft_plan.lessons import UNTAUGHT, lesson_key
from qwenft_plan.planner import Alternative, Planned
from qwenft_plan.prices import NO_PRICES, Prices
from qwenft_plan.progress import Progress
from qwenft_plan.search import Judged

__all__ = [
    "Report",
    "compose",
    "plan_block",
    "planned_condition",
    "progress_blocks",
    "result_block",
    "workers_block",
]

_LONGEST_MESSAGE = 1024
_SHOWN_PODS = 16
_YES, _NO, _UNKNOWN = "True", "False", "Unknown"

# phase → Ready, Reconciling, Stalled, Succeeded, Suspended
_CONDITIONS = {
    names.PENDING: (_NO, _YES, _NO, _UNKNOWN, _NO),
    names.QUEUED: (_NO, _YES, _NO, _UNKNOWN, _NO),
    names.STARTING: (_NO, _YES, _NO, _UNKNOWN, _NO),
    names.TRAINING: (_YES, _NO, _NO, _UNKNOWN, _NO),
    names.RESTARTING: (_NO, _YES, _NO, _UNKNOWN, _NO),
    names.SUSPENDED: (_NO, _NO, _NO, _UNKNOWN, _YES),
    names.SUCCEEDED: (_YES, _NO, _NO, _YES, _NO),
    names.FAILED: (_NO, _NO, _YES, _NO, _NO),
}
_TYPES = (names.READY, names.RECONCILING, names.STALLED, names.SUCCEEDED, names.SUSPENDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What one decision has to say."""

    phase: str
    reason: str
    """CamelCase, for machines."""
    message: str
    """One sentence, for people."""
    planned: str | None = None
    """Status of the condition ``Planned``; None keeps the last."""
    settled: bool = True
    """False while pods of a suspended run are still ending."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Top-level fields of the status that are new; a value of None drops the field."""


def compose(run: Run, report: Report, now: float) -> dict[str, Any]:
    """Return the whole new status: the old one, the report's changes, and the conditions."""
    message = report.message[:_LONGEST_MESSAGE]
    status = {key: value for key, value in run.status.items() if key not in report.changes}
    status |= {key: value for key, value in report.changes.items() if value is not None}
    status["phase"] = report.phase
    status["message"] = message
    status["observedGeneration"] = run.generation
    status["conditions"] = _conditions(run, report, message, now)
    return status


def _conditions(run: Run, report: Report, message: str, now: float) -> list[dict[str, Any]]:
    old = {item["type"]: item for item in run.status.get("conditions") or ()}
    wanted = dict(zip(_TYPES, _CONDITIONS[report.phase], strict=True))
    if not report.settled:
        wanted[names.SUSPENDED], wanted[names.RECONCILING] = _NO, _YES
    planned = report.planned or (old.get(names.PLANNED) or {}).get("status", _UNKNOWN)
    found = [_planned(old.get(names.PLANNED), planned, report, run.generation, now)]
    for kind, value in wanted.items():
        condition = {"type": kind, "status": value, "reason": report.reason, "message": message}
        found.append(_stamped(old.get(kind), condition, run.generation, now))
    return found


def _planned(
    old: Mapping[str, Any] | None, status: str, report: Report, generation: int, now: float
) -> dict[str, Any]:
    """Keep the plan's own reason when only the run's changes."""
    condition = {"type": names.PLANNED, "status": status, "reason": "NotPlannedYet", "message": ""}
    if report.planned is not None:
        reason = "Planned" if report.planned == _YES else report.reason
        condition |= {"reason": reason, "message": report.message[:_LONGEST_MESSAGE]}
    elif old is not None:
        condition |= {"reason": old["reason"], "message": old["message"]}
    return _stamped(old, condition, generation, now)


def planned_condition(run: Run, message: str, now: float) -> dict[str, Any]:
    """Return the condition of a plan that was made, as it follows the run's last status."""
    old = {item["type"]: item for item in run.status.get("conditions") or ()}
    report = Report(phase="", reason="", message=message, planned=_YES)
    return _planned(old.get(names.PLANNED), _YES, report, run.generation, now)


def _stamped(
    old: Mapping[str, Any] | None, condition: dict[str, Any], generation: int, now: float
) -> dict[str, Any]:
    same = old is not None and old.get("status") == condition["status"]
    since = old["lastTransitionTime"] if same and old is not None else format_time(now)
    return condition | {"observedGeneration": generation, "lastTransitionTime": since}


def plan_block(planned: Planned, prices: Prices = NO_PRICES) -> dict[str, Any]:
    """Return ``status.plan``."""
    plan, predicted, chosen = planned.plan, planned.predicted, planned.chosen
    block = {
        "summary": planned.summary[:256],
        "reason": planned.reason[:_LONGEST_MESSAGE],
        "digest": plan.digest,
        "kind": lesson_key(chosen.work, chosen.layout),
        "nodes": plan.nodes,
        "processesPerNode": plan.processes_per_node,
        "worldSize": plan.world_size,
        "dataReplicate": plan.dp_replicate,
        "dataShard": plan.dp_shard,
        "tensor": plan.tp,
        "pipeline": plan.pp,
        "microBatchSize": plan.micro_batch_size,
        "gradientAccumulationSteps": plan.gradient_accumulation_steps,
        "activationCheckpointing": plan.activation_checkpointing,
        "predicted": {
            "memoryGiB": predicted.memory_gib,
            "tokensPerSecond": predicted.tokens_per_second,
            "mfu": predicted.mfu,
        },
        "parts": _parts(chosen),
        "cost": _cost(chosen, prices),
        "alternatives": [_alternative(item, prices) for item in planned.alternatives[:8]],
    }
    if chosen.lesson != UNTAUGHT:
        block["correction"] = {
            "speed": float(f"{chosen.lesson.speed:.4g}"),
            "memory": float(f"{chosen.lesson.memory:.4g}"),
            "runs": chosen.lesson.runs + chosen.lesson.kin,
        }
    return block


def _parts(chosen: Judged) -> dict[str, Any]:
    """Return what the prediction is made of, before earlier runs correct it."""
    memory = {one.name: getattr(chosen.memory, one.name) / GIB for one in fields(chosen.memory)}
    seconds = {one.name: getattr(chosen.time, one.name) for one in fields(chosen.time)}
    return {
        "deviceGiB": _rounded(chosen.work.device.memory / GIB),
        "memoryGiB": {name: _rounded(value) for name, value in memory.items()},
        "stepSeconds": {name: _rounded(value) for name, value in seconds.items()},
    }


def _alternative(item: Alternative, prices: Prices) -> dict[str, Any]:
    told: dict[str, Any] = {
        "summary": item.summary[:256],
        "rejected": item.rejected[:_LONGEST_MESSAGE],
    }
    return told if item.judged is None else told | {"cost": _cost(item.judged, prices)}


def _cost(item: Judged, prices: Prices) -> dict[str, Any]:
    """Return what a billion tokens take: device hours, and money where there is a price."""
    cost: dict[str, Any] = {"deviceHours": _rounded(item.device_hours_per_billion_tokens)}
    amount = prices.amount(item)
    if amount is not None:
        cost["amount"] = _rounded(amount)
        cost |= {"currency": prices.currency} if prices.currency else {}
    return cost


def progress_blocks(progress: Progress, now: float) -> dict[str, Any]:
    """Return ``progress``, ``measured`` and ``checkpoint`` for a report that came at ``now``."""
    known = {key: _rounded(value) for key, value in progress.to_mapping().items()}
    measured = {
        key: known.pop(key) for key in ("memoryGiB", "tokensPerSecond", "mfu") if key in known
    }
    saved = {
        name: known.pop(key)
        for name, key in (
            ("step", "checkpointStep"),
            ("seconds", "checkpointSeconds"),
            ("blockedSeconds", "checkpointBlockedSeconds"),
        )
        if key in known
    }
    # Both are in status.plan.
    for key in ("planDigest", "predictedMemoryGiB"):
        known.pop(key, None)
    blocks: dict[str, Any] = {"progress": known | {"lastUpdatedTime": format_time(now)}}
    if measured:
        blocks["measured"] = measured
    if "step" in saved:
        blocks["checkpoint"] = saved
    return blocks


def _rounded(value: object) -> object:
    """Six significant digits are plenty for people, and fit a column."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def workers_block(pods: tuple[PodView, ...], total: int) -> dict[str, Any]:
    """Return ``status.workers``: counts over all pods, details of the first few.

    Pods that did not end well come first, so that a run of a thousand still shows them.
    """
    ready = sum(pod.ready or pod.phase == "Succeeded" for pod in pods)
    telling = sorted(pods, key=lambda pod: (pod.phase in ("Running", "Succeeded"), pod.index))
    shown = sorted(telling[:_SHOWN_PODS], key=lambda pod: pod.index)
    return {"ready": f"{ready}/{total}", "total": total, "pods": [_pod(pod) for pod in shown]}


def _pod(pod: PodView) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": pod.name,
        "rank": pod.index,
        "node": pod.node or None,
        "phase": "Lost" if pod.node_lost and not pod.over else pod.phase,
        "exitCode": pod.exit_code,
        "reason": (pod.waiting.split(":")[0] or pod.killed or None),
    }
    return {key: value for key, value in values.items() if value is not None}


_RESULT = ("validationLossBefore", "validationLossAfter", "finalLoss", "steps", "trainedTokens",
           "tokensPerSecond", "memoryGiB", "seconds", "outputPath", "bestStep",
           "bestValidationLoss", "bestPath", "environment", "hubUrl",
           "hubError")  # fmt: skip


def result_block(pods: tuple[PodView, ...]) -> dict[str, Any] | None:
    """Return ``status.result`` from the message that node rank 0 left; None where there is none."""
    first = next((pod for pod in pods if pod.index == 0 and pod.exit_code == 0), None)
    result = None if first is None else first.report.get("result")
    if not isinstance(result, Mapping):
        return None
    known = {key: result[key] for key in _RESULT if isinstance(result.get(key), int | float | str)}
    return {key: _rounded(value) for key, value in known.items()}
