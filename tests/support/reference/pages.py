"""Which page comes from which part of the code."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from reference import command_line, crd, samples, series, states, values

__all__ = ["PAGES", "ROOT"]

ROOT = Path(__file__).parents[3]

PAGES: dict[str, Callable[[], str]] = (
    {
        "docs/reference/crd.md": crd.page,
        "docs/reference/cli.md": command_line.page,
        "docs/reference/values.md": values.page,
        "docs/reference/metrics.md": series.page,
        "docs/reference/exit-codes.md": states.exit_codes,
        "docs/reference/conditions.md": states.conditions,
    }
    | {
        f"manifests/samples/sizes/{stem}.yaml": partial(samples.text, stem)
        for stem in samples.STEMS
    }
    | {"manifests/samples/sizes/README.md": samples.listing}
)
"""Path below the repository's root → the function that returns its text."""
