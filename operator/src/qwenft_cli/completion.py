"""``qwenft completion``: a script that lets the shell complete verbs, options and choices."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from qwenft_cli.access import Connect
from qwenft_cli.failure import OK

__all__ = ["HELP", "NAME", "add_arguments", "run", "script"]

NAME = "completion"
HELP = "print a script for the shell: source <(qwenft completion bash)"
_SHELLS = ("bash", "zsh")
_BASH = """\
_qwenft() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}}
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W "{verbs}" -- "$current")); return
  fi
  case "$verb ${{COMP_WORDS[COMP_CWORD-1]}}" in
{choices}
  esac
  case "$verb" in
{options}
  esac
}}
complete -o default -F _qwenft qwenft
"""
_ZSH = "autoload -Uz bashcompinit && bashcompinit\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help="bash or zsh")


def run(args: argparse.Namespace, connect: Connect) -> int:  # noqa: ARG001 - no cluster needed
    """Print the script."""
    top: Callable[[], argparse.ArgumentParser] = args.parser
    print((_ZSH if args.shell == "zsh" else "") + script(top()), end="")
    return OK


def script(top: argparse.ArgumentParser) -> str:
    """Return the bash script that completes what ``top`` declares; files are left to the shell."""
    below = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001 - argparse tells it nowhere else
    verbs: dict[str, argparse.ArgumentParser] = dict(below.choices)
    options = [
        _case(name, (word for action in verb._actions for word in action.option_strings))  # noqa: SLF001
        for name, verb in verbs.items()
    ]
    return _BASH.format(
        verbs=" ".join(verbs),
        choices="\n".join(line for name, verb in verbs.items() for line in _choices(name, verb)),
        options="\n".join(options),
    )


def _choices(name: str, verb: argparse.ArgumentParser) -> Iterator[str]:
    for action in verb._actions:  # noqa: SLF001
        for word in action.option_strings or ([name] if action.choices else []):
            if action.choices:
                yield _case(f'"{name} {word}"', map(str, action.choices), last="return; ")


def _case(pattern: str, words: Iterator[str], last: str = "") -> str:
    listed = " ".join(words)
    return f'    {pattern}) COMPREPLY=($(compgen -W "{listed}" -- "$current")); {last};;'
