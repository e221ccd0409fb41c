"""Preempted and drained pods did nothing wrong: go on from the checkpoint, uncounted."""

from __future__ import annotations

from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY"]

_EXIT_CODE = 64
# A pod that was deleted and is gone before its exit code was read, was preempted like the one whose
# code was.
_REASONS = ("Disrupted", "PodDeleted")


def _judge(circumstances: Circumstances) -> Verdict | None:
    failure = circumstances.failure
    if failure.exit_code != _EXIT_CODE and failure.reason not in _REASONS:
        return None
    return Verdict(restart=True, counted=False, advice=circumstances.way_on)


POLICY = Policy(
    cause="preempted, drained, evicted or deleted pod (exit code 64, disruption)",
    decision="restart from the checkpoint, not counted",
    judge=_judge,
)
