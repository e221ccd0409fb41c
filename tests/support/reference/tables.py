"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["NOTE", "table"]

NOTE = "<!-- generated: make docs-reference -->\n\n"


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table; a pipe or a line break in a cell does not end it."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
