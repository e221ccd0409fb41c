"""The pinned versions of the embedded cluster, read from ``versions.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Versions:
    """What is pinned: Go products by name, Debian package names, and the images' base."""

    go: dict[str, str]
    packages: tuple[str, ...]
    base_suite: str
    base_packages: tuple[str, ...]


def parse(text: str) -> Versions:
    """Read the pins from TOML; a missing table or key raises ``KeyError`` with its name."""
    table = tomllib.loads(text)
    debian = table["debian"]
    return Versions(
        go={name: str(version) for name, version in table["go"].items()},
        packages=tuple(debian["packages"]),
        base_suite=str(debian["base_suite"]),
        base_packages=tuple(debian["base_packages"]),
    )


def load() -> Versions:
    """Read the pins that lie beside this module."""
    return parse((FOLDER / "versions.toml").read_text(encoding="utf-8"))
