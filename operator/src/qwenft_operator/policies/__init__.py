"""What follows from each way in which an attempt can end: one rule a file, the first match decides.

The rules know neither the cluster nor the clock; ``backoffLimit`` is applied to all of them here.
"""

from __future__ import annotations

from dataclasses import replace

from qwenft_operator.policies import (
    disruption,
    growth,
    host_memory,
    image,
    invalid_input,
    non_finite,
    out_of_memory,
    preemption,
    unschedulable,
    worker_error,
)
from qwenft_operator.policies.policy import BEGINS_ANEW, Circumstances, Policy, Verdict

__all__ = [
    "BEGINS_ANEW",
    "ON_PURPOSE",
    "POLICIES",
    "Circumstances",
    "Policy",
    "Verdict",
    "judge",
    "table",
]

POLICIES: tuple[Policy, ...] = (
    invalid_input.POLICY,
    image.POLICY,
    out_of_memory.POLICY,
    host_memory.POLICY,
    non_finite.POLICY,
    preemption.POLICY,
    unschedulable.POLICY,
    disruption.POLICY,
    worker_error.POLICY,
)

ON_PURPOSE: tuple[tuple[str, str], ...] = (
    growth.ROW,
    (
        "`nodes.max` lowered below the nodes of the running attempt",
        (
            "save and go on by a plan for fewer nodes, not counted; where no plan is left, go on "
            "as before and say so"
        ),
    ),
)
"""Why an attempt that has not failed is ended, and how it goes on."""


def table() -> str:
    """Return the rules as a Markdown table, in the order in which they are asked."""
    rules = [(policy.cause, policy.decision) for policy in POLICIES]
    rows = [f"| {cause} | {decision} |" for cause, decision in (*rules, *ON_PURPOSE)]
    return "\n".join(["| cause | decision |", "|---|---|", *rows]) + "\n"


def judge(circumstances: Circumstances, *, retries: int, backoff_limit: int) -> Verdict:
    """Return the verdict of the first rule that applies, within ``backoff_limit``.

    ``retries`` are the counted restarts so far. The last rule applies to everything.
    """
    verdicts = (policy.judge(circumstances) for policy in POLICIES)
    verdict = next(found for found in verdicts if found is not None)
    if verdict.restart and verdict.counted and retries >= backoff_limit:
        advice = f"backoffLimit of {backoff_limit} restarts is used up"
        return replace(verdict, restart=False, advice=advice)
    return verdict
