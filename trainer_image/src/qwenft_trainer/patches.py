"""Replacing attributes of other modules for as long as a script runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Target = tuple[Any, str]
"""An object and the name of its attribute."""

_ABSENT = object()


@contextmanager
def replaced(values: Mapping[Target, Any]) -> Iterator[None]:
    """Set attributes and put the old ones back at the end, in the reverse order."""
    before = [(target, target[0].__dict__.get(target[1], _ABSENT)) for target in values]
    for (owner, name), value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name), value in reversed(before):
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
