"""The kernel killed a container over its memory limit: the same request would end the same way."""

from __future__ import annotations

from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY"]


def _judge(circumstances: Circumstances) -> Verdict | None:
    if circumstances.failure.reason != "OOMKilled":
        return None
    return Verdict(restart=False, advice="raise spec.resources.memoryPerNode")


POLICY = Policy(
    cause="host memory exhausted (OOMKilled)",
    decision="stop, say which request to raise",
    judge=_judge,
)
