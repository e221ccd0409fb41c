"""The part of docs/performance.md that tells how fast runs recover."""

# ruff: noqa: E501 - the text as it is printed

from __future__ import annotations

from statistics import median
from typing import Any

from recovery.demands import DEMANDS, LEAST_ROUNDS, Demand

__all__ = ["text", "unmet"]

NOT_MEASURED = "not measured"


def unmet(known: dict[str, Any]) -> list[str]:
    """Return what of the demands was measured and takes too long, or was not measured at all."""
    return [each.what for each in DEMANDS if not each.met(_seconds(known, each))]


def text(known: dict[str, Any]) -> str:
    """Return the section; ``known`` maps the demands' keys to ``seconds``, ``date`` and ``load``."""
    rows = [_row(each, known) for each in DEMANDS]
    return "\n".join([_HEAD, *rows, "", _TAIL])


def _seconds(known: dict[str, Any], demand: Demand) -> list[float]:
    return list((known.get(demand.key) or {}).get("seconds", ()))


def _row(demand: Demand, known: dict[str, Any]) -> str:
    seconds = _seconds(known, demand)
    if not seconds:
        return f"| {demand.what} | ≤ {demand.most:.0f} s | {NOT_MEASURED} | | | | **not met** |"
    found = known[demand.key]
    met = "met" if demand.met(seconds) else "**not met**"
    if len(seconds) < LEAST_ROUNDS:
        met += f": fewer than {LEAST_ROUNDS} rounds"
    spread = f"{min(seconds):.1f} – {max(seconds):.1f} s"
    return (
        f"| {demand.what} | ≤ {demand.most:.0f} s | {median(seconds):.1f} s | {spread} "
        f"| {len(seconds)} | {found['date']}, load {found['load']} | {met} |"
    )


_HEAD = """\
## Recovery

Written by `make bench-recovery`: a run of the samples' small model on the embedded cluster's two nodes, the image
present, one process a node, a checkpoint every second step. Times are those that the node gives to the lines of the
log; a *new* step has a higher number than any that was trained before. The control plane notices a lost node after 8 s
(`--node-monitor-grace-period=8s`); by Kubernetes' own settings, before a control plane started anew for that row, after
50 s. All of the cluster shares this machine's two cores; `load` is the load average at the end.

| event | required | median | least – most | rounds | when | |
|---|---|---|---|---|---|---|"""

_TAIL = """\
*Operator killed* counts from its deletion with a second of grace until its successor has written the status of a run
that was edited once the old process was surely gone."""
