"""What a mutation is: one piece of text that is replaced by another, and who has to see it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "SOURCES", "Mutation", "broken_copy", "group"]

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("operator/src", "trainer_image/src")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutation:
    """One broken copy."""

    file: str
    """Path within a source folder: ``qwenft_plan/search.py``."""
    what: str
    """What the copy does wrong."""
    old: str
    """Text that occurs once in the file."""
    new: str
    tests: tuple[str, ...]
    """Files and folders below ``tests`` in which a test has to fail, the likeliest first."""

    @property
    def path(self) -> Path:
        """Where the file lies in this checkout."""
        (found,) = (
            ROOT / part / self.file for part in SOURCES if (ROOT / part / self.file).exists()
        )
        return found

    def applied(self) -> str:
        """Return the broken file's text; ``ValueError`` unless there is one place to break."""
        text = self.path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: {self.old!r} occurs {text.count(self.old)} times")
        return text.replace(self.old, self.new)


def group(file: str, tests: tuple[str, ...], *changes: tuple[str, str, str]) -> Iterable[Mutation]:
    """Return mutations of one file: what the copy does wrong, the old text, the new one."""
    return tuple(
        Mutation(file=file, what=what, old=old, new=new, tests=tests) for what, old, new in changes
    )


def broken_copy(mutation: Mutation, folder: Path) -> tuple[Path, ...]:
    """Copy the sources into ``folder`` with the mutation in them; return their new places."""
    places = []
    for part in SOURCES:
        place = folder / part
        shutil.copytree(ROOT / part, place, ignore=shutil.ignore_patterns("__pycache__"))
        places.append(place)
    target = folder / mutation.path.relative_to(ROOT)
    target.write_text(mutation.applied(), encoding="utf-8")
    return tuple(places)
