"""A loss that is no number comes from the data or the learning rate, not from the machines."""

from __future__ import annotations

from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY"]

_EXIT_CODE = 67


def _judge(circumstances: Circumstances) -> Verdict | None:
    if circumstances.failure.exit_code != _EXIT_CODE:
        return None
    advice = "lower spec.training.learningRate, or look at the samples of the step named here"
    return Verdict(restart=False, advice=advice)


POLICY = Policy(
    cause="non-finite loss or gradient (exit code 67)",
    decision="stop",
    judge=_judge,
)
