"""A gang of which a part finds no node holds capacity that another run could use: release it."""

from __future__ import annotations

from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY", "REASON"]

REASON = "Unschedulable"


def _judge(circumstances: Circumstances) -> Verdict | None:
    if circumstances.failure.reason != REASON:
        return None
    return Verdict(restart=True, counted=False, advice="released its nodes; will be planned anew")


POLICY = Policy(
    cause="a part of the pods found no node for minutes",
    decision="release the nodes of the others, plan anew after a rest that grows, not counted",
    judge=_judge,
)
