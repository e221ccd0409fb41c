"""The fields of a QwenFineTune, from the definition itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from reference.tables import NOTE, table

__all__ = ["page", "schema"]

_FILE = Path(__file__).parents[3] / "manifests" / "crd.yaml"
_LIMITS = ("minimum", "maximum", "minLength", "maxLength", "maxItems", "maxProperties", "pattern")


@cache
def schema() -> dict[str, Any]:
    """Return the OpenAPI schema of v1alpha1."""
    document = yaml.safe_load(_FILE.read_text("utf-8"))
    found: dict[str, Any] = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def page() -> str:
    """Return docs/reference/crd.md."""
    fields = schema()["properties"]
    text = "# QwenFineTune\n\n" + NOTE
    text += (
        "`qwenft.dev/v1alpha1`, namespaced, short name `qft`. `kubectl explain qft.spec` says the"
        " same.\nA field without a default is optional unless it is marked required; where the"
        " planner chooses, it says so.\n"
    )
    for section in ("spec", "status"):
        text += f"\n## {section}\n\n"
        rows = list(_rows(fields[section], section, required=False))
        text += table(("field", "type", "default", "meaning"), rows)
    rules = sorted({r["message"] for r in _rules(schema())})
    text += "\n## What the apiserver refuses\n\n" + "".join(f"- {rule}\n" for rule in rules)
    return text


def _rows(node: dict[str, Any], path: str, *, required: bool) -> Iterator[tuple[str, ...]]:
    if path not in ("spec", "status"):
        default = f"`{_plain(node['default'])}`" if "default" in node else ""
        mark = "required" if required else default
        yield f"`{path}`", _type(node), mark, _meaning(node)
    for key, child in (node.get("properties") or {}).items():
        yield from _rows(child, f"{path}.{key}", required=key in node.get("required", ()))
    items = node.get("items")
    if isinstance(items, dict) and "properties" in items:
        for key, child in items["properties"].items():
            yield from _rows(child, f"{path}[].{key}", required=key in items.get("required", ()))


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    kind = str(node.get("type", ""))
    if kind == "array":
        return f"list of {_type(node['items'])}"
    if kind == "object" and isinstance(node.get("additionalProperties"), dict):
        return "map"
    return kind


def _meaning(node: dict[str, Any]) -> str:
    limits = [f"{key} {node[key]}" for key in _LIMITS[:2] if key in node]
    text = str(node.get("description", ""))
    return f"{text} ({', '.join(limits)})".strip() if limits else text


def _rules(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from node.get("x-kubernetes-validations") or ()
    for child in (node.get("properties") or {}).values():
        yield from _rules(child)
    if isinstance(node.get("items"), dict):
        yield from _rules(node["items"])
