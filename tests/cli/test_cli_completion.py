"""The completion script, as bash itself runs it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from qwenft_cli.__main__ import VERBS

Verb = Callable[..., int]


@pytest.fixture
def completed(qwenft: Verb, capsys: pytest.CaptureFixture[str]) -> Callable[[str], list[str]]:
    """Return a function that gives what bash offers after a line."""
    assert qwenft("completion", "bash") == 0
    script = capsys.readouterr().out

    def ask(line: str) -> list[str]:
        words = line.split(" ")
        listed = " ".join(f"'{word}'" for word in words)
        asked = (
            f'COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _qwenft; echo "${{COMPREPLY[@]}}"'
        )
        bash = shutil.which("bash")
        assert bash
        done = subprocess.run(
            [bash, "--norc", "-uc", f"{script}\n{asked}"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.split()

    return ask


def test_a_tab_after_the_name_offers_every_verb(completed: Callable[[str], list[str]]) -> None:
    assert completed("qwenft ") == [module.NAME for module in VERBS]
    assert completed("qwenft su") == ["submit", "suspend"]


def test_a_tab_after_a_verb_offers_its_options(completed: Callable[[str], list[str]]) -> None:
    assert completed("qwenft plan --o") == ["--on", "--output", "--operator"]
    assert completed("qwenft logs --f") == ["--failed", "--follow"]
    assert completed("qwenft prepare --s") == ["--stdlib-sample"]


def test_a_tab_after_an_option_offers_its_choices(completed: Callable[[str], list[str]]) -> None:
    assert completed("qwenft plan -o ") == ["table", "json"]
    assert completed("qwenft completion ") == ["bash", "zsh"]


def test_where_nothing_is_known_the_shell_offers_files(
    completed: Callable[[str], list[str]],
) -> None:
    assert completed("qwenft plan my-") == []


def test_zsh_reads_the_same_script(qwenft: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert qwenft("completion", "zsh") == 0
    told = capsys.readouterr().out
    assert told.startswith("autoload -Uz bashcompinit && bashcompinit\n_qwenft()")
