"""Printing: what rich draws, for people, and objects as JSON, for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.console import Console, RenderableType

from qwenft_cli.access import Object

__all__ = ["show", "show_json"]


def show(drawn: RenderableType) -> None:
    """Print a drawing; rich fills lines up to the width, which nobody wants in a file."""
    console = Console()
    if console.is_terminal:
        console.print(drawn)
        return
    with console.capture() as held:
        console.print(drawn)
    print("\n".join(line.rstrip() for line in held.get().splitlines()))


def show_json(told: Object | tuple[Object, ...]) -> None:
    """Print an object, or a list of them, without who wrote which field, as kubectl does."""
    plain = _plain(told) if isinstance(told, Mapping) else [_plain(body) for body in told]
    print(json.dumps(plain, indent=2))


def _plain(body: Object) -> Object:
    """Leave out the managed fields: more lines than all the rest."""
    metadata = {k: v for k, v in body.get("metadata", {}).items() if k != "managedFields"}
    return {**body, "metadata": metadata} if "metadata" in body else body
