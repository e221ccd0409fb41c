"""`python -m recovery.bench [--rounds N] [--add] [EVENT…]`: measure, write, compare.

Figures go to ``docs/performance_recovery.json``, and from there into docs/performance.md. Exit code
1 if a median is over its limit, of too few rounds, or missing. ``--quick`` tries everything once
and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import published
from demo import platforms
from demo.platforms import ROOT, Embedded
from embedded import layout
from embedded.cluster import Cluster
from embedded.configuration import QUICK, NodeLoss
from endtoend.bench import Bench
from endtoend.stage import set_up
from recovery import page
from recovery.demands import LEAST_ROUNDS, Samples
from recovery.events import EVENTS, LOSSES

__all__ = ["main"]

FIGURES = ROOT / "docs" / "performance_recovery.json"
PAGE = ROOT / "docs" / "performance.md"
WRITER = "make bench-recovery"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is named, or everything; 1 where a demand is not met."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("events", nargs="*", metavar="EVENT", help=", ".join(EVENTS))
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    parser.add_argument("--add", action="store_true", help="to the rounds that are there")
    parser.add_argument("--quick", action="store_true", help="one round, nothing written")
    args = parser.parse_args(arguments)
    if unknown := set(args.events) - set(EVENTS):
        parser.error(f"no event {', '.join(sorted(unknown))}; there are {', '.join(EVENTS)}")
    if not isinstance(platforms.choose(), Embedded):
        parser.error("nodes are killed here: unset KUBECONFIG for the embedded cluster")
    known: dict[str, Any] = {}
    if FIGURES.exists() and not args.quick:
        known = json.loads(FIGURES.read_text(encoding="utf-8"))
    chosen, rounds = args.events or tuple(EVENTS), 1 if args.quick else args.rounds
    stands = Stands()
    for name in chosen:
        found = measure(stands(name), name, rounds)
        known |= figures(found, known if args.add else {})
        if not args.quick:
            write(known)
    print(page.text(known))
    missing = page.unmet(known)
    for what in missing:
        print(f"not met: {what}", file=sys.stderr)
    return int(bool(missing))


class Stands:
    """The cluster that an event wants: made anew where the last one has other timings."""

    def __init__(self) -> None:
        self._loss: NodeLoss | None = None
        self._bench: Bench | None = None

    def __call__(self, name: str) -> Bench:
        """Return the bench for an event."""
        loss = LOSSES.get(name, QUICK)
        if self._bench is None or loss != self._loss:
            cluster = Cluster(layout=layout.from_environment(), loss=loss)
            self._loss, self._bench = loss, set_up(Embedded(cluster=cluster))
        return self._bench


def measure(bench: Bench, name: str, rounds: int) -> Samples:
    """Let one event happen ``rounds`` times; returns the seconds of each."""
    gathered: Samples = {}
    for turn in range(rounds):
        for key, seconds in EVENTS[name](bench, turn).items():
            gathered.setdefault(key, []).extend(seconds)
            print(f"{name} {turn + 1}: {key} {_told(seconds)}", file=sys.stderr, flush=True)
    return gathered


def figures(found: Samples, before: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of the file, with the rounds that were there before."""
    made = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "load": round(os.getloadavg()[1])}
    return {
        key: made
        | {"seconds": [*before.get(key, {}).get("seconds", ()), *(round(each, 2) for each in new)]}
        for key, new in found.items()
    }


def write(known: dict[str, Any], file: Path = FIGURES, shown: Path = PAGE) -> None:
    """Write the figures, and the page's part."""
    file.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    published.put(shown, WRITER, page.text(known))


def _told(seconds: Iterable[float]) -> str:
    return ", ".join(f"{each:.1f} s" for each in seconds)


if __name__ == "__main__":
    sys.exit(main())
