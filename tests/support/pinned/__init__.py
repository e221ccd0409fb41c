"""Environments beside the project's own, for what cannot live in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import venv
from pathlib import Path

__all__ = ["environment"]

_REQUIREMENTS = Path(__file__).parents[3] / "requirements"


def environment(name: str) -> Path:
    """Return the Python of an environment that has what ``requirements/NAME.txt`` pins.

    It is installed once into the cache, and anew where the file changes.
    """
    wanted = _REQUIREMENTS / f"{name}.txt"
    cache = Path(os.environ.get("QWENFT_CACHE", Path.home() / ".cache/qwenft"))
    tools = cache / f"{name}-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:16]}"
    python = tools / "bin/python"
    if not (tools / "READY").exists():
        venv.create(tools, with_pip=True, clear=True)
        words = ("-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(wanted))
        subprocess.run([python, *words], check=True, timeout=600)
        (tools / "READY").touch()
    return python
