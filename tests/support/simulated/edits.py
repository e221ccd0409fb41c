"""Edits of a request that are drawn from the definition's own schema: well, badly, and hostile."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from simulated.builders import spec_mapping

__all__ = ["EDITS", "GOOD", "Edit", "edited"]

ROOT = Path(__file__).resolve().parents[3]
CRD = yaml.safe_load((ROOT / "manifests" / "crd.yaml").read_text("utf-8"))
SPEC = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
GOOD = spec_mapping()
HOSTILE = (
    "", " ", "a" * 10_000, "../../etc/passwd", "/proc/self/environ", "$(touch /tmp/x)", "`id`",
    "{{ .Values.secret }}", "\x00", "\u202egnp.exe", "💥", "'; DROP TABLE runs; --", "a\nb: c",
    "null", "NaN", "-1", "1e999", "<script>", "%s%n", "x" * 63, "x" * 64, "kube-system",
    "system:masters", "tiny", "default",
)  # fmt: skip
JUNK = st.sampled_from(
    (None, [], {}, "", -1, 0, 2**63, 2**200, 1e308, math.inf, math.nan, True, ["x"] * 300,
     {"a": {"b": {"c": {}}}}, {f"k{number}": "v" for number in range(300)}, *HOSTILE)
)  # fmt: skip
Path_ = tuple[str, ...]
Edit = tuple[str, Path_, Any]
"""How, where, and what."""


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return what the schema allows, the extremes and the hostile first."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        return _object(schema)
    if kind == "array":
        return st.lists(values(schema.get("items", {})), max_size=3)
    low, high = int(schema.get("minimum", -(2**31))), int(schema.get("maximum", 2**31))
    plain: dict[str | None, st.SearchStrategy[Any]] = {
        "integer": st.sampled_from((low, high)) | st.integers(low, high),
        "number": st.floats(low, high),
        "boolean": st.booleans(),
    }
    words = st.sampled_from(HOSTILE) | st.text(max_size=schema.get("maxLength", 20) % 40)
    return plain.get(kind, words)


def _object(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    properties = schema.get("properties")
    if not properties:
        entry = schema.get("additionalProperties")
        content = values(entry) if isinstance(entry, dict) else JUNK
        return st.dictionaries(st.sampled_from(HOSTILE), content, max_size=3)
    known = {key: values(part) for key, part in properties.items()}
    required = {key: known[key] for key in schema.get("required", ()) if key in known}
    return st.fixed_dictionaries(
        required, optional={key: part for key, part in known.items() if key not in required}
    )


def places(schema: dict[str, Any], at: Path_ = ()) -> list[tuple[Path_, dict[str, Any]]]:
    """Return every field of the schema with its own part of it."""
    found = [(at, schema)] if at else []
    for key, part in (schema.get("properties") or {}).items():
        found += places(part, (*at, key))
    return found


PLACES = places(SPEC)
EDITS = st.one_of(
    st.sampled_from(PLACES).flatmap(
        lambda place: st.tuples(st.just("allowed"), st.just(place[0]), values(place[1]))
    ),
    st.tuples(st.just("junk"), st.sampled_from([path for path, _ in PLACES]), JUNK),
    st.tuples(st.just("removed"), st.sampled_from([path for path, _ in PLACES]), st.none()),
    st.tuples(st.just("whole"), st.just(()), values(SPEC)),
    st.tuples(st.just("good"), st.just(()), st.none()),
)


def edited(spec: Any, kind: str, path: Path_, value: Any) -> Any:
    """Return the spec after an edit; a way that leads through no object is made one."""
    if kind == "good":
        return copy.deepcopy(GOOD)
    if kind == "whole":
        return value
    new = copy.deepcopy(spec) if isinstance(spec, dict) else {}
    inner = new
    for key in path[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    if kind == "removed":
        inner.pop(path[-1], None)
    else:
        inner[path[-1]] = value
    return new
