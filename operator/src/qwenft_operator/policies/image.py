"""A container that cannot be made: after a time in which a registry may recover, stop."""

from __future__ import annotations

from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY", "REASON"]

REASON = "ContainerNotCreated"


def _judge(circumstances: Circumstances) -> Verdict | None:
    if circumstances.failure.reason != REASON:
        return None
    advice = "mend spec.trainer.image (or what the message names), then create the run again"
    return Verdict(restart=False, advice=advice)


POLICY = Policy(
    cause="image not found, or a container that cannot be created",
    decision="named at once; stop when it lasts",
    judge=_judge,
)
