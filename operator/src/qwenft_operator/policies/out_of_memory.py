"""The devices' memory did not suffice: stop with the numbers of what was expected and used."""

from __future__ import annotations

from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY"]

_EXIT_CODE = 68


def _judge(circumstances: Circumstances) -> Verdict | None:
    if circumstances.failure.exit_code != _EXIT_CODE:
        return None
    plan = circumstances.plan
    advice = "use a smaller microBatchSize, activationCheckpointing: full, or more devices"
    if plan is not None and plan.predicted is not None:
        expected = f"the plan expected {plan.predicted.memory_gib:.1f} GiB a device"
        advice = f"{expected} at micro-batch {plan.micro_batch_size}: {advice}"
    return Verdict(restart=False, advice=advice)


POLICY = Policy(
    cause="device out of memory (exit code 68)",
    decision="stop with the numbers",
    judge=_judge,
)
