"""What an attempt's Job remembers of its start, should the status not tell it. Pure.

Objects are made before the status tells of them. An operator that dies between the two would leave
a run whose status knows no plan, or an older one: a re-plan after a failure would have nothing to
start from. So each Job carries what the status is to say of its plan, and it is said late.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qwenft_operator import names
from qwenft_operator.observe import Observed
from qwenft_operator.run import Run
from qwenft_operator.status import planned_condition

__all__ = ["recollected", "remembering"]


def remembering(
    objects: tuple[dict[str, Any], ...], plan: Mapping[str, Any], message: str
) -> tuple[dict[str, Any], ...]:
    """Return an attempt's objects, its Job with ``status.plan`` and the plan's sentence on it."""
    note = json.dumps({"plan": plan, "message": message}, ensure_ascii=False)
    return tuple(_noted(item, note) if item["kind"] == "Job" else item for item in objects)


def _noted(job: dict[str, Any], note: str) -> dict[str, Any]:
    annotations = dict(job["metadata"].get("annotations") or {}) | {names.ANNOTATION_PLAN: note}
    return {**job, "metadata": {**job["metadata"], "annotations": annotations}}


def recollected(run: Run, observed: Observed, now: float) -> Run:
    """Return the run with the plan of its newest attempt, where the status was never written."""
    job = observed.job_of(observed.latest)
    if job is None or job.attempt <= run.status.get("attempt", 0) or not job.note:
        return run
    condition = planned_condition(run, str(job.note["message"]), now)
    others = [item for item in run.status.get("conditions") or () if item["type"] != names.PLANNED]
    told = {"plan": job.note["plan"], "conditions": [condition, *others]}
    return replace(run, status=dict(run.status) | told)
