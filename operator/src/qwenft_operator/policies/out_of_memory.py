"""The devices' memory did not suffice: plan again with less of it, stop when no plan is left.

The plan was expected to fit and did not, so its own expectation is too much. The next plan must be
expected to need a tenth less than that, whatever the devices hold.
"""

from __future__ import annotations

from qwenft_operator.policies import host_memory
from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY"]

_EXIT_CODE = 68
_SHARE = 0.9
"""Of what the failed plan was expected to need, the share that the next one may."""


def _judge(circumstances: Circumstances) -> Verdict | None:
    failure = circumstances.failure
    limited = circumstances.memory_request is not None
    if failure.exit_code != _EXIT_CODE or (limited and failure.reason == host_memory.REASON):
        return None  # the kernel killed a rank over the container's limit: no device was full
    plan = circumstances.plan
    if plan is None or plan.predicted is None:
        advice = "use a smaller microBatchSize, activationCheckpointing: full, or more devices"
        return Verdict(restart=False, advice=advice)
    expected = plan.predicted.memory_gib
    budget = round(expected * _SHARE, 6)
    advice = (
        f"the plan expected {expected:.2f} GiB a device at micro-batch {plan.micro_batch_size}; "
        f"the next one may need {budget:.2f} GiB at most"
    )
    return Verdict(restart=True, memory_budget=budget, advice=advice)


POLICY = Policy(
    cause="device out of memory (exit code 68)",
    decision="plan again with a tighter memory budget; stop with the numbers when none is left",
    judge=_judge,
)
