"""Exit codes, phases and conditions, from the tables that the operator works with."""

from __future__ import annotations

from qwenft_operator import names, status
from reference.tables import NOTE, table

__all__ = ["conditions", "exit_codes"]

_EXITS = {
    64: ("the pod was asked to end; the last step is saved where time allows", "restart"),
    65: (
        (
            "the dataset cannot be read or does not fit the model; or, as `OutputInvalid`, a store "
            "refuses the output: no such bucket, or no right"
        ),
        "stop",
    ),
    66: ("plan or model cannot be used", "stop"),
    67: (
        "loss or gradient became infinite or no number",
        "once more from an older checkpoint, then stop",
    ),
    68: ("a device ran out of memory", "plan again with less, or stop with the numbers"),
    69: (
        "connections to other ranks were lost; or, as `Hung`, this rank stood still",
        "restart, counted",
    ),
    70: (
        "anything else; what a script raises",
        "stop before the first step, else restart, counted",
    ),
}
_PHASES = {
    names.PENDING: "It waits for nodes, for a claim, or for its spec to be mended.",
    names.QUEUED: "A queueing system holds the Job back.",
    names.STARTING: "Pods are created, images pulled, the model is loaded.",
    names.TRAINING: "Steps are reported.",
    names.RESTARTING: "An attempt failed and the next one comes.",
    names.SUSPENDED: "`runPolicy.suspend` is set; no pod runs.",
    names.SUCCEEDED: "The result lies in `output.path`.",
    names.FAILED: "Nothing more is tried; `status.failure` says why.",
}
_MEANINGS = {
    names.PLANNED: "a plan was found",
    names.READY: "all pods train, or the run has succeeded",
    names.RECONCILING: "the operator is at work on it",
    names.STALLED: "only a person can help",
    names.SUCCEEDED: "it has ended well (True) or badly (False)",
    names.SUSPENDED: "it was suspended and its pods are gone",
}


def exit_codes() -> str:
    """Return docs/reference/exit-codes.md."""
    assert set(_EXITS) == set(names.REASONS), "each code has a sentence"
    text = "# Exit codes of a trainer pod\n\n" + NOTE
    text += (
        "A pod ends with one of these, and leaves the cause as JSON in its termination message;"
        " the operator\nshows the first failing rank's in `status.failure`. What follows in full:"
        " [What follows from a failure](../failures.md).\n\n"
    )
    rows = [("0", "`Completed`", "all steps were trained", "the run has succeeded")]
    rows += [(str(code), f"`{names.REASONS[code]}`", *told) for code, told in _EXITS.items()]
    return text + table(("code", "reason", "meaning", "what the operator does"), rows)


def conditions() -> str:
    """Return docs/reference/conditions.md."""
    assert set(_PHASES) == set(status._CONDITIONS), "each phase has a sentence"
    types = status._TYPES
    text = "# Phases and conditions\n\n" + NOTE
    text += (
        "`status.phase` is for people. Tools wait for conditions, which are all present from the"
        " first write and\nfollow kstatus: `kubectl wait qft/NAME --for=condition=Succeeded`.\n\n"
        "## Phases\n\n"
    )
    text += table(("phase", "meaning"), [(f"`{name}`", told) for name, told in _PHASES.items()])
    text += "\n## Conditions\n\n"
    text += table(("type", "True means"), [(f"`{n}`", told) for n, told in _MEANINGS.items()])
    text += "\n## Which condition says what in which phase\n\n"
    rows = [(f"`{phase}`", *found) for phase, found in status._CONDITIONS.items()]
    return text + table(("phase", *types), rows)
