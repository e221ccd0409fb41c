"""Mutations of JSON documents and of bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

__all__ = ["anything", "damaged", "mutated"]

_TEXTS = (
    "", " ", "0", "-1", "1e999", "NaN", "Infinity", "null", "true", "16Gi", "1e400Ei", "-5m",
    "9" * 400, "٣", "½", "1_000", "0x10", "+", ".", "..", "/", "/../x",
    "\x00", "\n", "\x1b[2J", "\ud800", "é" * 300,
    "x" * 5000, "{{ .x }}", "$(x)",
    "__class__", "model_type", "2x8xH100-80G", "0x0xcpu", "<svg>",
)  # fmt: skip
_NUMBERS = (
    0, 1, -1, 2, 3, 64, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.0, -0.0, 0.5,
    1e-320, 1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip


def anything(chance: Random, depth: int = 3) -> Any:  # noqa: PLR0911 - one kind a line
    """Return any JSON value, likely a nasty one."""
    kind = chance.randrange(7 if depth else 5)
    if kind == 0:
        return chance.choice(_TEXTS)
    if kind == 1:
        return chance.choice(_NUMBERS)
    if kind == 2:
        return chance.choice((None, True, False))
    if kind == 3:
        return chance.randrange(-(2 ** chance.randrange(1, 70)), 2 ** chance.randrange(1, 70))
    if kind == 4:
        return "".join(chr(chance.randrange(1, 0xD7FF)) for _ in range(chance.randrange(8)))
    if kind == 5:
        return [anything(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {
        chance.choice(_TEXTS): anything(chance, depth - 1) for _ in range(chance.randrange(4))
    }  # fmt: skip


def mutated(document: Any, chance: Random) -> Any:
    """Return a copy of the document with one to four places changed."""
    found = copy.deepcopy(document)
    for _ in range(chance.randrange(1, 5)):
        holders = list(_holders(found))
        if not holders:
            return anything(chance)
        chance.choice(_CHANGES)(chance.choice(holders), chance)
    return found


def _holders(value: Any) -> list[Any]:
    found: list[Any] = []
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict) and item:
            found.append(item)
            stack.extend(item.values())
        elif isinstance(item, list) and item:
            found.append(item)
            stack.extend(item)
    return found


def _key(holder: Any, chance: Random) -> Any:
    return chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))


def _replace(holder: Any, chance: Random) -> None:
    holder[_key(holder, chance)] = anything(chance)


def _remove(holder: Any, chance: Random) -> None:
    del holder[_key(holder, chance)]


def _add(holder: Any, chance: Random) -> None:
    if isinstance(holder, dict):
        holder[chance.choice(_TEXTS)] = anything(chance)
    else:
        holder.insert(chance.randrange(len(holder) + 1), anything(chance))


def _nudge(holder: Any, chance: Random) -> None:
    key = _key(holder, chance)
    value = holder[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        holder[key] = _scrambled(value, chance) if isinstance(value, str) else [value]
    else:
        try:
            holder[key] = chance.choice((value + 1, value - 1, -value, value * 2, value / 2, 0))
        except OverflowError:
            holder[key] = 0


def _swap(holder: Any, chance: Random) -> None:
    first, second = _key(holder, chance), _key(holder, chance)
    holder[first], holder[second] = holder[second], holder[first]


def _scrambled(text: str, chance: Random) -> str:
    at = chance.randrange(len(text) + 1)
    return text[:at] + chance.choice(_TEXTS) + text[at + chance.randrange(3) :]


_CHANGES: tuple[Callable[[Any, Random], None], ...] = (_replace, _replace, _remove, _add, _nudge,
                                                       _nudge, _swap)  # fmt: skip


def damaged(content: bytes, chance: Random) -> bytes:
    """Return the bytes cut, flipped, doubled or with something foreign in them."""
    found = bytearray(content)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(found) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            del found[at:]
        elif kind == 1 and at < len(found):
            found[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            found[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 3:
            found[at:at] = json.dumps(anything(chance, 1)).encode()
        else:
            del found[at : at + chance.randrange(1, 9)]
    return bytes(found)
