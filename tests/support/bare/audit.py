"""Reading the apiserver's audit log: what the operator asked, and what of it were writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["WRITES", "Entry", "granted", "read", "used", "writes"]

WRITES = frozenset({"create", "update", "patch", "delete"})
Right = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One request of the operator."""

    group: str
    resource: str
    """With its subresource: ``qwenfinetunes/status``."""
    verb: str
    code: int
    name: str
    at: str

    @property
    def right(self) -> Right:
        """Group, resource and verb."""
        return self.group, self.resource, self.verb


def read(log: Path) -> Iterator[Entry]:
    """Yield the entries of resources; a line that is still being written is left out."""
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        # A watch is told twice: when it begins to stream, and at its end.
        streamed = event["verb"] == "watch" and event["stage"] == "ResponseComplete"
        if event.get("objectRef") and not streamed:
            yield _entry(event)


def _entry(event: Mapping[str, Any]) -> Entry:
    target = event["objectRef"]
    part = f"/{target['subresource']}" if target.get("subresource") else ""
    return Entry(
        group=target.get("apiGroup", ""),
        resource=target["resource"] + part,
        verb=event["verb"],
        code=int((event.get("responseStatus") or {}).get("code", 0)),
        name=target.get("name", ""),
        at=event["requestReceivedTimestamp"],
    )


def used(entries: Iterable[Entry]) -> set[Right]:
    """Return the rights that the requests needed; a patch that made its object needed two."""
    found = set()
    for entry in entries:
        found.add(entry.right)
        if entry.verb == "patch" and entry.code == 201:
            found.add((entry.group, entry.resource, "create"))
    return found


def writes(entries: Iterable[Entry]) -> Counter[str]:
    """Return how many writes were made, by resource."""
    return Counter(
        entry.resource
        for entry in entries
        if entry.verb in WRITES and entry.resource != "tokenreviews"
    )


def granted(rules: Iterable[Mapping[str, Any]]) -> set[Right]:
    """Return every right of a role."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
