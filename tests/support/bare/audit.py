"""Reading the apiserver's audit log: what the operator asked, and what of it were writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["WRITES", "Entry", "Grant", "grants", "idle", "read", "ungranted", "writes"]

WRITES = frozenset({"create", "update", "patch", "delete"})


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

    namespace: str = ""
    """Empty for what belongs to none, and for all of them at once."""

    @property
    def needed(self) -> tuple[Entry, ...]:
        """Return the entry for each right that it took: a patch that made its object took two."""
        if self.verb == "patch" and self.code == 201:
            return self, replace(self, verb="create", name="")
        return (self,)


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Grant:
    """One right of a role."""

    where: str
    """Namespace of a Role; empty: a ClusterRole's, everywhere."""
    group: str
    resource: str
    verb: str
    names: tuple[str, ...] = ()
    """Objects that it is for; empty: all."""

    def covers(self, entry: Entry) -> bool:
        """Whether a request needs no other right than this one."""
        same = (self.group, self.resource, self.verb) == (entry.group, entry.resource, entry.verb)
        here = self.where in ("", entry.namespace)
        return same and here and (not self.names or entry.name in self.names)


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
        namespace=target.get("namespace", ""),
    )


def ungranted(entries: Iterable[Entry], rights: Iterable[Grant]) -> set[Entry]:
    """Return what was asked for without a right to it."""
    known = tuple(rights)
    needed = {each for entry in entries for each in entry.needed}
    return {each for each in needed if not any(right.covers(each) for right in known)}


def idle(entries: Iterable[Entry], rights: Iterable[Grant]) -> set[Grant]:
    """Return the rights that nobody used."""
    needed = {each for entry in entries for each in entry.needed}
    return {right for right in rights if not any(right.covers(each) for each in needed)}


def writes(entries: Iterable[Entry]) -> Counter[str]:
    """Return how many writes were made, by resource."""
    return Counter(
        entry.resource
        for entry in entries
        if entry.verb in WRITES and entry.resource != "tokenreviews"
    )


def grants(role: Mapping[str, Any]) -> set[Grant]:
    """Return every right of a Role or ClusterRole."""
    where = role["metadata"].get("namespace", "") if role["kind"] == "Role" else ""
    return {
        Grant(where=where, group=group, resource=resource, verb=verb,
              names=tuple(rule.get("resourceNames") or ()))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }  # fmt: skip
