"""A loss that is no number: once more from an older checkpoint, then it is the data or the rate.

A damaged weight, from a device that computes wrongly for a moment, is saved like a sound one; the
checkpoint before it is not affected. Where the same happens from there, machines are not to blame.
"""

from __future__ import annotations

from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY"]

_EXIT_CODE = 67
_MEND = "lower spec.training.learningRate, or look at the samples of the step named here"


def _judge(circumstances: Circumstances) -> Verdict | None:
    if circumstances.failure.exit_code != _EXIT_CODE:
        return None
    step = circumstances.checkpoint_step
    if circumstances.went_back:
        advice = f"it came again from an older checkpoint: {_MEND}"
        return Verdict(restart=False, advice=advice)
    if not step:
        return Verdict(restart=False, advice=f"there is no checkpoint to go back to: {_MEND}")
    advice = f"goes on once from a checkpoint older than that of step {step}"
    return Verdict(restart=True, before_step=step, advice=advice)


POLICY = Policy(
    cause="non-finite loss or gradient (exit code 67)",
    decision="once from an older checkpoint than the newest, counted; then stop",
    judge=_judge,
)
