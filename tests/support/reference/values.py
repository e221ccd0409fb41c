"""The chart's values: defaults and comments from values.yaml, types from its schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from reference.tables import NOTE, table

__all__ = ["comments", "page", "undocumented"]

_CHART = Path(__file__).parents[3] / "charts" / "qwenft"
_LINE = re.compile(r"^( *)([A-Za-z]\w*):(.*)$")


def page() -> str:
    """Return docs/reference/values.md."""
    schema = json.loads((_CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.safe_load((_CHART / "values.yaml").read_text("utf-8"))
    text = "# Values of the chart\n\n" + NOTE
    text += "A name that is not in this table is refused by the chart's schema.\n\n"
    said = comments()
    rows = (
        (f"`{path}`", kind, f"`{json.dumps(default)}`", said.get(path, ""))
        for path, kind, default in _leaves(schema, values, "")
    )
    return text + table(("value", "type", "default", "meaning"), rows)


def comments() -> dict[str, str]:
    """Return the comment above each key of values.yaml, by the key's path."""
    found: dict[str, str] = {}
    above: list[str] = []
    path: list[str] = []
    for line in (_CHART / "values.yaml").read_text("utf-8").splitlines():
        stripped = line.strip()
        match = _LINE.match(line)
        if stripped.startswith("#"):
            above.append(stripped.lstrip("# "))
        elif match:
            path = [*path[: len(match[1]) // 2], match[2]]
            if above:
                found[".".join(path)] = " ".join(above)
            above = []
        else:
            above = []
    return found


def undocumented() -> list[str]:
    """Return the values that have neither a comment of their own nor one above them."""
    schema = json.loads((_CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.safe_load((_CHART / "values.yaml").read_text("utf-8"))
    said = comments()
    return [path for path, _, _ in _leaves(schema, values, "") if path not in said]


def _leaves(schema: dict[str, Any], values: Any, path: str) -> Iterator[tuple[str, str, object]]:
    for key, node in schema["properties"].items():
        where = f"{path}.{key}" if path else key
        if where == "global":
            continue
        if "properties" in node and values[key]:
            yield from _leaves(node, values[key], where)
        else:
            yield where, _type(node), values[key]


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(f"`{value}`" if value else "empty" for value in node["enum"])
    kinds = node["type"]
    return kinds if isinstance(kinds, str) else " or ".join(kinds)
