"""Lost connections, Jobs and nodes: the work is sound, restart it from the checkpoint."""

from __future__ import annotations

from qwenft_operator import names
from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["HUNG", "NODE_LOST", "POLICY"]

_EXIT_CODE = 69
NODE_LOST, HUNG = "NodeLost", names.HUNG
_REASONS = ("JobDeleted", NODE_LOST, HUNG)


def _judge(circumstances: Circumstances) -> Verdict | None:
    failure = circumstances.failure
    if failure.exit_code != _EXIT_CODE and failure.reason not in _REASONS:
        return None
    return Verdict(restart=True, advice=circumstances.way_on)


POLICY = Policy(
    cause=(
        "communication lost or a rank that stands still (exit code 69), Job deleted, node lost, "
        "no progress"
    ),
    decision="restart from the checkpoint, counted",
    judge=_judge,
)
