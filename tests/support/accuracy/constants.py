"""Every constant of the runtimes with its unit and where it comes from, as a table."""

from __future__ import annotations

from dataclasses import fields

from accuracy import calibrate, calibrate_memory
from qwenft_plan.runtimes import CONSTANTS, GIB, OWN, RUNTIMES, Runtime

__all__ = ["constants_table", "fitted_by"]

_DEFAULTS = {field.name: field.default for field in fields(Runtime)}
_OF_OWN_RUNS = frozenset({"matmul", "attention", "traffic", "compiled_traffic"})
_MILLION = 1e6


def fitted_by(runtime: str, field: str) -> tuple[str, ...]:
    """Return the sources that a calibration fits this constant to; empty: none does."""
    if runtime == OWN.name and field in _OF_OWN_RUNS:
        return ("gpu_runs",)
    return tuple(
        source
        for stage in (*calibrate.STAGES, *calibrate_memory.STAGES)
        for knob in stage.knobs
        if runtime in knob.owner.split("|") and knob.field == field
        for source in stage.sources
    )


def constants_table() -> str:
    """Return a line a constant: unit, origin, usual value, and the rows that differ."""
    lines = [
        "| constant | unit | origin | usual | rows that differ or were fitted |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{name}` | {unit} | {origin} | {_shown(_DEFAULTS[name])} | {_others(name)} |"
        for name, (unit, origin) in CONSTANTS.items()
    ]
    return "\n".join(lines)


def _others(field: str) -> str:
    found = []
    for runtime in RUNTIMES:
        value, sources = getattr(runtime, field), fitted_by(runtime.name, field)
        if value != _DEFAULTS[field] or sources:
            said = f" (fitted: {', '.join(_short(source) for source in sources)})"
            found.append(f"{runtime.name} {_shown(value)}{said if sources else ''}")
    return "; ".join(found)


def _short(source: str) -> str:
    """Return the first words of a source's long name."""
    return "_".join(source.split("_")[:2])


def _shown(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if value >= _MILLION:
        return f"{value / GIB:.2g} GiB"
    return f"{value:.4g}"
