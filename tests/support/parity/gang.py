"""Starting ranks on this machine and collecting what each case of a list came to.

One gang runs many cases, since starting Python and torch takes longer than a tiny training.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity import nursery
from parity.tiny import Point


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One thing that a gang does: ``kind`` names a function of :mod:`parity.worker`.

    ``plan`` are the arguments of :func:`parity.tiny.make_plan`, ``options`` the function's own.
    """

    name: str
    model: Path | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "name": self.name,
            "model": str(self.model),
            "plan": dict(self.plan),
            "kind": self.kind,
            "options": {k: str(v) if isinstance(v, Path) else v for k, v in self.options.items()},
        }


def run(ranks: int, cases: Sequence[Case]) -> dict[str, Any]:
    """Run all cases on one gang; returns their values by name.

    A case that raises has ``{"error": …}`` as its value, and ends the gang: those after it have
    none.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cases.json").write_text(json.dumps([case.to_mapping() for case in cases]))
        nursery.run("parity.worker", folder, str(ranks))
        return _read(folder)


def points(value: Any) -> list[Point]:
    """Read the steps of a case of kind ``train``."""
    assert isinstance(value, list), value
    return [Point(loss=loss, norm=norm) for loss, norm in value]


def worst(found: Sequence[Point], expected: Sequence[Point]) -> Point:
    """Return the largest difference of a loss, absolute, and of a gradient norm, relative."""
    pairs = list(zip(found, expected, strict=True))
    return Point(
        loss=max(abs(a.loss - b.loss) for a, b in pairs),
        norm=max(abs(a.norm - b.norm) / b.norm for a, b in pairs),
    )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["name"]: entry["value"] for entry in map(json.loads, lines)}
