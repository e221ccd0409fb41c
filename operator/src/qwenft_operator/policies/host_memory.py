"""The kernel killed a container over its memory limit: ask for half as much again, once.

The same request would end the same way. Whether a node has the higher one is seen in planning.
"""

from __future__ import annotations

from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY", "REASON"]

REASON = "OOMKilled"
_GIB = 2**30


def _judge(circumstances: Circumstances) -> Verdict | None:
    if circumstances.failure.reason != REASON:
        return None
    asked = circumstances.memory_request
    if asked is None:
        advice = "the node itself ran out of memory: use nodes with more of it"
        return Verdict(restart=False, advice=advice)
    if circumstances.memory_raised:
        advice = f"{asked / _GIB:.2f} GiB, already raised, are not enough either"
        advice += ": raise spec.resources.memoryPerNode"
        return Verdict(restart=False, advice=advice)
    raised = asked + asked // 2
    advice = f"asks for {raised / _GIB:.2f} GiB a node instead of {asked / _GIB:.2f}, once"
    return Verdict(restart=True, memory_request=raised, advice=advice)


POLICY = Policy(
    cause="host memory exhausted (OOMKilled)",
    decision="ask for half as much memory again, once, counted; stop with the numbers when that is "
    "not enough or no node has it",
    judge=_judge,
)
