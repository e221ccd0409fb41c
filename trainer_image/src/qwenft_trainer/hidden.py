"""Packages that transformers and peft import wherever they are, and that are not to be imported."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def hide(name: str) -> None:
    """Let imports of a package say that there is none, for the rest of this process."""
    sys.modules[name] = None  # type: ignore[assignment] # how Python spells it


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Hide a package for as long as the block runs; one that was imported already stays."""
    if name in sys.modules:
        yield
        return
    hide(name)
    try:
        yield
    finally:
        sys.modules.pop(name, None)
