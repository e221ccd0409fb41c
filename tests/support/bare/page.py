"""The page about the operator's cost, written from the figures."""

from __future__ import annotations

from typing import Any

from bare.plane import ROOT

__all__ = ["write"]

PAGE = ROOT / "docs" / "performance_operator.md"


def write(known: dict[str, Any]) -> None:
    """Stand-in until the page has its final form."""
    PAGE.write_text(repr(known), encoding="utf-8")
