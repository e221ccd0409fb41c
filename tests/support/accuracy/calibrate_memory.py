"""Fit the few constants of memory that are fitted at all, and leave each source out in turn.

`PYTHONPATH=tests/support python -m accuracy.calibrate_memory` prints the constants to put into
`qwenft_plan.runtimes`. Most of what memory needs is counted, not fitted: bytes of states follow
from the precision, saved activations and logits from the kernels. What is left: how much the
allocator reserves beyond live tensors, the loss and the context of ms-swift, whose modelling code
nobody can look at any more, and what InternEvo keeps beside a parameter. The sources in
`HELD_OUT_MEMORY` enter no stage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, median

from accuracy.calibrate import Stage, Values, fit, knobs
from accuracy.rows import HELD_OUT_MEMORY, load
from qwenft_plan.estimate import printed_memory
from qwenft_plan.memory import peak_memory
from qwenft_plan.row import Question
from qwenft_plan.runtimes import GIB, RUNTIMES, Runtime

__all__ = ["LeftOut", "calibrated", "left_out", "observations", "reserved_over_allocated"]

STAGES = (
    Stage(
        sources=("ms_swift_bench",),
        knobs=knobs("ms-swift", logit=(6.0, 60.0), overhead=(0.0, 3.0 * GIB)),
    ),
    Stage(sources=("internevo_mem",), knobs=knobs("internevo", optimizer=(12.0, 32.0))),
)

_RELATIVES = {"ms-swift": "deepspeed", "internevo": "megatron"}
_ALLOCATOR_SOURCE = "simumax_b200"
_RESERVED = re.compile(r"reserved=([\d.]+)")


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """A row whose memory counts: GiB, as its semantics mean it."""

    source: str
    question: Question
    memory: float

    def error(self, question: Question) -> float:
        """Return the logarithm of predicted over measured memory."""
        parts = peak_memory(question.work, question.layout)
        return math.log(printed_memory(question, parts) / GIB / self.memory)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Relative errors of one source's memory, with constants that saw it and that did not."""

    source: str
    lost: str
    fitted: tuple[float, ...]
    unseen: tuple[float, ...]


def observations() -> tuple[Weighed, ...]:
    """Return the rows whose memory counts."""
    return tuple(
        Weighed(source=row.source, question=row.question, memory=row.memory)
        for row in load()
        if row.question is not None and row.memory is not None and not row.left_out_memory
    )


def reserved_over_allocated() -> float:
    """Return the mean over the runs of which a source prints both; no estimate is involved."""
    rows = [row for row in observations() if row.source == _ALLOCATOR_SOURCE]
    both = [(_RESERVED.search(row.question.semantics), row.memory) for row in rows]
    return fmean(float(found[1]) / memory for found, memory in both if found)


@cache
def calibrated(*, without: str = "") -> tuple[tuple[Runtime, ...], tuple[str, ...]]:
    """Return the runtimes with constants fitted to all sources but `without`, and what that lost.

    A runtime that only the missing source was measured under gets the constants of its nearest
    relative: what a new row of the table would begin with.
    """
    slack, lost = reserved_over_allocated(), []
    if without == _ALLOCATOR_SOURCE:
        slack, lost = 1.0, ["allocator"]
    runtimes = {
        each.name: replace(each, allocator=slack) if each.allocator > 1 else each
        for each in RUNTIMES
    }
    for stage in STAGES:
        rows = [row for row in observations() if row.source in stage.sources]
        name = stage.knobs[0].owner
        if without in stage.sources:
            runtimes[name] = replace(runtimes[_RELATIVES[name]], name=name)
            lost += [knob.field for knob in stage.knobs]
        else:
            runtimes[name] = _with(runtimes[name], fit(stage, rows, {}))
    return tuple(runtimes.values()), tuple(lost)


def left_out() -> tuple[LeftOut, ...]:
    """Return every source beside what is predicted of it without it."""
    rows = observations()
    found = []
    for source in sorted({row.source for row in rows}):
        own = [row for row in rows if row.source == source]
        unseen, lost = calibrated(without=source)
        found.append(
            LeftOut(
                source=source,
                lost="nothing: held out" if source in HELD_OUT_MEMORY else ", ".join(lost),
                fitted=_errors(own, RUNTIMES),
                unseen=_errors(own, unseen),
            )
        )
    return tuple(found)


def _errors(rows: Sequence[Weighed], runtimes: Sequence[Runtime]) -> tuple[float, ...]:
    by_name = {runtime.name: runtime for runtime in runtimes}
    found = []
    for row in rows:
        work = replace(row.question.work, runtime=by_name[row.question.work.runtime.name])
        found.append(abs(math.expm1(row.error(replace(row.question, work=work)))))
    return tuple(found)


def _with(runtime: Runtime, values: Values) -> Runtime:
    changed = {knob.field: value for knob, value in values.items()}
    return replace(runtime, **changed)  # type: ignore[arg-type]


def main() -> None:
    """Print the fitted constants and the errors with and without each source."""
    runtimes, _ = calibrated()
    print(f"allocator = {reserved_over_allocated():.4g}")
    for stage in STAGES:
        found = next(each for each in runtimes if each.name == stage.knobs[0].owner)
        for knob in stage.knobs:
            print(f"{knob.owner}.{knob.field} = {getattr(found, knob.field):.4g}")
    for item in left_out():
        before, after = median(item.fitted), median(item.unseen)
        print(f"{item.source:<24} {len(item.fitted):>3} {before:6.1%} {after:6.1%} {item.lost}")


if __name__ == "__main__":
    main()
