"""What the documentation shows: its blocks, its commands, its runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["DOCS", "FENCE", "ROOT", "RUNS", "TEXTS", "Shown", "blocks", "page_run", "shown"]

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
TEXTS = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One command of a page."""

    where: str
    text: str


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield page and text of every block of a language; the empty one is a terminal's."""
    for text in TEXTS:
        for found, body in FENCE.findall(text.read_text("utf-8")):
            if found == language:
                yield str(text.relative_to(ROOT)), body


def shown(*programs: str) -> tuple[Shown, ...]:
    """Return the commands of these programs, page by page, in the order in which they are read."""
    wanted = re.compile(rf"(?:{'|'.join(programs)}) [a-z-].*")
    found = []
    for text in TEXTS:
        for line in _lines(text.read_text("utf-8")):
            plain = line.partition("  #")[0].strip()
            if wanted.fullmatch(plain):
                found.append(Shown(where=str(text.relative_to(ROOT)), text=plain))
    return tuple(found)


def _lines(content: str) -> Iterator[str]:
    """Yield the lines of terminal blocks, those that go on as one, and what backquotes hold."""
    end = 0
    for fence in FENCE.finditer(content):
        yield from _INLINE.findall(content[end : fence.start()])
        if fence[1] == "":
            yield from re.sub(r"\\\n\s*", "", fence[2]).splitlines()
        end = fence.end()
    yield from _INLINE.findall(content[end:])


def _runs() -> Iterator[tuple[str, dict[str, Any]]]:
    for where, body in blocks("yaml"):
        for document in yaml.safe_load_all(body):
            if isinstance(document, dict) and document.get("kind") == "QwenFineTune":
                yield where, document


RUNS = tuple(_runs())
"""Page and body of every run that is shown whole."""


def page_run(where: str) -> dict[str, Any]:
    """Return the first run of a page, the README's where it shows none."""
    return next((run for page, run in RUNS if page == where), RUNS[0][1])
