"""Figures in the documentation that several benches write: each owns one part of the page."""

from __future__ import annotations

from pathlib import Path

__all__ = ["put"]


def put(page: Path, writer: str, text: str) -> None:
    """Write the part of ``page`` that belongs to ``writer``, and leave the others' as they are.

    A part that is not there yet goes to the end. ``writer`` is the command that people type.
    """
    begin, end = f"<!-- from {writer} -->\n", f"<!-- to {writer} -->\n"
    part = f"{begin}{text.strip()}\n{end}"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    before, found, rest = old.partition(begin)
    if found:
        _, closed, after = rest.partition(end)
        if not closed:
            raise ValueError(f"{page}: {begin.strip()} is never closed by {end.strip()}")
        new = before + part + after
    else:
        new = f"{old}\n{part}" if old else part
    page.write_text(new, encoding="utf-8")
