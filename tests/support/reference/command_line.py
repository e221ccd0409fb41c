"""The verbs and their options, from the parser itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from qwenft_cli.__main__ import parser
from qwenft_cli.failure import BAD_INPUT, FAILED, INFEASIBLE, INTERRUPTED, OK
from reference.tables import NOTE, table

__all__ = ["page", "verbs"]

_CODES = {
    OK: "done; with `--watch`, the run succeeded",
    FAILED: "failed: the cluster, a file, or, with `--watch`, the run",
    BAD_INPUT: "bad input: the sentence names the field",
    INFEASIBLE: "no plan fits; the sentence gives the numbers",
    "64 to 70": "of `run` and `prepare`: the trainer's own, see [Exit codes](exit-codes.md)",
    INTERRUPTED: "interrupted by Ctrl-C",
}


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each verb."""
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no verbs")


def page() -> str:
    """Return docs/reference/cli.md."""
    text = "# Command line\n\n" + NOTE
    text += (
        "`qwenft VERB` and `kubectl qft VERB` are one program. `qwenft VERB --help` says the same"
        " as this page.\n\n## Exit codes\n\n"
    )
    text += table(("code", "meaning"), [(str(code), what) for code, what in _CODES.items()])
    for name, verb in verbs().items():
        text += f"\n## qwenft {name}\n\n{_sentence(verb)}\n\n"
        if rows := list(_arguments(verb)):
            text += table(("argument", "meaning"), rows)
        if verb.epilog:
            text += f"\n{verb.epilog}\n" if rows else f"{verb.epilog}\n"
    return text


def _sentence(verb: argparse.ArgumentParser) -> str:
    return (verb.description or "").strip()


def _arguments(verb: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in verb._actions:
        if action.help is argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        told = (action.help or _choices(action)).replace("%(default)s", str(action.default))
        yield _shape(action), told.replace("%%", "%")


def _shape(action: argparse.Action) -> str:
    value: Any = action.metavar or action.dest.upper()
    names = ", ".join(action.option_strings)
    if not names:
        return f"`{value}`"
    return f"`{names}`" if action.nargs == 0 else f"`{names} {value}`"


def _choices(action: argparse.Action) -> str:
    return f"one of {', '.join(map(str, action.choices))}" if action.choices else ""
