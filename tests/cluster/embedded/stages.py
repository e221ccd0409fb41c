"""Announced stages: each prints its name and its time, a failed one its log's end and the way out.

Commands write to a log; what a person sees is one line a stage.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

TAIL_LINES = 20
Words: TypeAlias = Sequence[str | Path]
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy"})


class StageError(Exception):
    """A stage that did not end well.

    ``remedy`` is the one thing to do; ``log`` the file that holds the details, where there is one.
    """

    def __init__(self, message: str, *, remedy: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.log = log

    def report(self) -> str:
        """Say what failed, the end of the log, and the remedy."""
        parts = [f"failed: {self}"]
        if self.log is not None and self.log.exists():
            parts += [f"--- the end of {self.log}", tail(self.log), "---"]
        if self.remedy:
            parts.append(f"to do: {self.remedy}")
        return "\n".join(parts)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


@contextmanager
def stage(name: str, *, remedy: str = "") -> Iterator[None]:
    """Announce a stage and print its seconds; a ``StageError`` without a remedy gets this one."""
    print(f"  {name} …", end="", flush=True)
    began = time.monotonic()
    try:
        yield
    except StageError as error:
        print(f" failed after {time.monotonic() - began:.1f} s", flush=True)
        error.remedy = error.remedy or remedy
        raise
    except BaseException:
        print(f" stopped after {time.monotonic() - began:.1f} s", flush=True)
        raise
    print(f" {time.monotonic() - began:.1f} s", flush=True)


def direct_environment() -> dict[str, str]:
    """Return this environment without proxies: the cluster lives on this machine's own bridge."""
    return {key: value for key, value in os.environ.items() if key.lower() not in _PROXIES}


def run(
    command: Words,
    *,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command and return what it printed.

    With ``log``, everything it prints goes there instead and "" is returned. Raises ``StageError``
    where the command fails or is missing.
    """
    words = [str(word) for word in command]
    try:
        if log is None:
            done = subprocess.run(
                words,
                input=stdin,
                env=environment,
                cwd=cwd,
                capture_output=True,
                text=True,
                check=False,
            )
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as sink:
                sink.write(f"$ {' '.join(words)}\n")
                sink.flush()
                done = subprocess.run(
                    words,
                    input=stdin,
                    env=environment,
                    cwd=cwd,
                    stdout=sink,
                    stderr=sink,
                    text=True,
                    check=False,
                )
    except FileNotFoundError as error:
        raise StageError(f"{words[0]}: no such program", remedy=f"install {words[0]}") from error
    if done.returncode != 0:
        detail = "" if log is not None else f": {done.stderr.strip() or done.stdout.strip()}"
        raise StageError(f"{' '.join(words[:6])} exited with {done.returncode}{detail}", log=log)
    return done.stdout or ""


def wait_until(
    condition: Callable[[], bool],
    *,
    seconds: float,
    what: str,
    log: Path | None = None,
    every: float = 0.1,
) -> None:
    """Wait for a condition, asking every so many seconds; ``StageError`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise StageError(f"{what} did not come true within {seconds:.0f} s", log=log)
        time.sleep(every)
