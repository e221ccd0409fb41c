"""Everything else. An error before the first step would come again; a later one may not."""

from __future__ import annotations

from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY"]

_KILLED = (137, 143)
"""Exit codes of a process ended by a signal from outside: no verdict on what it ran."""


def _judge(circumstances: Circumstances) -> Verdict:
    killed = circumstances.failure.exit_code in _KILLED
    if circumstances.trained or killed:
        return Verdict(restart=True, advice=circumstances.way_on)
    advice = "it failed before its first step: mend what the message names, then create it again"
    return Verdict(restart=False, advice=advice)


POLICY = Policy(
    cause="any other error (exit code 70, a script that raises)",
    decision="stop when no step was trained yet, else restart from the checkpoint, counted",
    judge=_judge,
)
