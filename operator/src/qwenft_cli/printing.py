"""Printing what rich draws: with colours on a terminal, without blanks at the end in a pipe."""

from __future__ import annotations

from rich.console import Console, RenderableType

__all__ = ["show"]


def show(drawn: RenderableType) -> None:
    """Print a drawing; rich fills lines up to the width, which nobody wants in a file."""
    console = Console()
    if console.is_terminal:
        console.print(drawn)
        return
    with console.capture() as held:
        console.print(drawn)
    print("\n".join(line.rstrip() for line in held.get().splitlines()))
