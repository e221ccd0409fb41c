"""A dataset, model, plan or script that is wrong stays wrong: stop and say what to mend."""

from __future__ import annotations

from qwenft_operator.policies.policy import Circumstances, Policy, Verdict

__all__ = ["POLICY"]

_ADVICE = {
    65: "mend the dataset (spec.dataset), then create the run again",
    66: "mend the model or the plan's fields (spec.model, spec.parallelism), then create it again",
}
_OF_REASONS = {
    "OutputInvalid": "mend the store's bucket, its rights or its Secret (spec.output, "
    "spec.trainer.envFrom), then create the run again",
}
"""Where the reason tells more than the code."""


def _judge(circumstances: Circumstances) -> Verdict | None:
    failure = circumstances.failure
    advice = _OF_REASONS.get(failure.reason) or _ADVICE.get(failure.exit_code or 0)
    return None if advice is None else Verdict(restart=False, advice=advice)


POLICY = Policy(
    cause="dataset, model or plan invalid (exit code 65, 66)",
    decision="stop, say what to mend",
    judge=_judge,
)
