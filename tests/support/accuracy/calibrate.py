"""Fit the speed constants of runtimes and device generations, source by source.

`PYTHONPATH=tests/support python -m accuracy.calibrate` prints the constants to put into
`qwenft_plan.runtimes` and `qwenft_plan.hardware`; nothing is written. Each stage moves a few
knobs on the rows of its own sources and keeps the others where they stand. The sources in
`HELD_OUT` enter no stage. Memory has a calibration of its own in `accuracy.calibrate_memory`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from accuracy.rows import HELD_OUT, load
from qwenft_plan.cost import tokens_per_second
from qwenft_plan.hardware import generation
from qwenft_plan.row import Question

Values = dict["Knob", float]


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A constant to fit: a field of runtimes (joined by `|`), or of a generation's devices."""

    owner: str
    field: str
    low: float
    high: float

    def applies(self, question: Question) -> bool:
        """Return whether the knob moves this question."""
        work = question.work
        owners = self.owner.split("|")
        return work.runtime.name in owners or generation(work.device.name) in owners

    def turned(self, question: Question, value: float) -> Question:
        """Return the question with this constant at `value`."""
        work = question.work
        if work.runtime.name in self.owner.split("|"):
            changed: dict[str, Any] = {self.field: value}
            runtime = replace(work.runtime, **changed)
            return replace(question, work=replace(work, runtime=runtime))
        if self.field == "attention":
            value *= work.device.peak_bf16
        device = replace(work.device, **dict[str, Any]({self.field: value}))
        return replace(question, work=replace(work, device=device))

    def current(self, question: Question) -> float:
        """Return the constant as the question has it."""
        work = question.work
        if work.runtime.name in self.owner.split("|"):
            return float(getattr(work.runtime, self.field))
        value = float(getattr(work.device, self.field))
        return value / work.device.peak_bf16 if self.field == "attention" else value


def knobs(owner: str, **ranges: tuple[float, float]) -> tuple[Knob, ...]:
    """Return one knob a field."""
    return tuple(
        Knob(owner=owner, field=field, low=low, high=high) for field, (low, high) in ranges.items()
    )


class Observed(Protocol):
    """A row that was measured; what was measured is its own affair."""

    @property
    def source(self) -> str: ...

    @property
    def question(self) -> Question: ...

    def error(self, question: Question) -> float:
        """Return the logarithm of predicted over measured, `question` being the row's."""
        ...


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A row whose speed counts."""

    source: str
    fp8: bool
    question: Question
    speed: float

    def error(self, question: Question) -> float:
        """Return the logarithm of predicted over measured speed."""
        speed = tokens_per_second(question.work, question.layout) / question.layout.world_size
        return math.log(speed / self.speed)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Knobs and the sources that fit them."""

    sources: tuple[str, ...]
    knobs: tuple[Knob, ...]
    stride: int = 1


STAGES = (
    Stage(
        sources=("vtrain_single",),
        stride=4,
        knobs=knobs(
            "megatron-early",
            matmul=(0.6, 1.0),
            traffic=(0.5, 6.0),
            score_bytes=(6.0, 40.0),
            launch=(0.5e-3, 1.5e-3),
            straggle=(0.0, 0.1),
            collective=(10e-6, 300e-6),
            collective_rank=(0.0, 30e-6),
        ),
    ),
    Stage(
        sources=(
            "mosaicml_H100_80GB_BF16",
            "mosaicml_A100_80GB_with_1600_Gbps_node-node_interconnect",
        ),
        knobs=knobs(
            "composer",
            matmul=(0.6, 1.0),
            traffic=(1.0, 5.0),
            shard_exposed=(0.05, 0.3),
            launch=(0.1e-3, 1.5e-3),
        )
        + knobs("ampere", attention=(0.15, 0.7))
        + knobs("hopper", attention=(0.1, 0.6), sustained=(0.6, 1.0)),
    ),
    Stage(
        sources=("torchtitan_h100_202412",),
        knobs=knobs(
            "torchtitan",
            matmul=(0.6, 1.0),
            traffic=(1.0, 6.0),
            attention=(0.5, 2.0),
            shard_exposed=(0.05, 0.3),
            tp_exposed=(0.2, 1.2),
        ),
    ),
    Stage(sources=("internevo",), knobs=knobs("internevo", matmul=(0.6, 1.0), traffic=(1.0, 5.0))),
    Stage(
        sources=("dgxc", "simumax_b200"),
        knobs=knobs(
            "nemo|megatron",
            matmul=(0.6, 1.1),
            traffic=(1.0, 6.0),
            attention=(0.8, 3.0),
            shard_exposed=(0.05, 0.3),
            tp_exposed=(0.1, 1.0),
            launch=(0.1e-3, 1.0e-3),
        )
        + knobs("blackwell", sustained=(0.4, 1.0), attention=(0.1, 0.6)),
    ),
)


def apply(question: Question, values: Values) -> Question:
    """Return the question with every fitted constant that moves it."""
    for knob, value in values.items():
        if knob.applies(question):
            question = knob.turned(question, value)
    return question


def loss(rows: Sequence[Observed], values: Values) -> float:
    """Return the mean absolute logarithm of predicted over measured, sources equal."""
    sources: dict[str, list[float]] = {}
    for row in rows:
        sources.setdefault(row.source, []).append(abs(error(row, values)))
    return sum(sum(errors) / len(errors) for errors in sources.values()) / len(sources)


def error(row: Observed, values: Values) -> float:
    """Return the logarithm of predicted over measured with every fitted constant."""
    return row.error(apply(row.question, values))


def fit(stage: Stage, rows: Sequence[Observed], values: Values) -> Values:
    """Return `values` with the stage's knobs moved downhill, step by shrinking step."""
    found = dict(values)
    for knob in stage.knobs:
        if knob not in found:
            found[knob] = next(knob.current(r.question) for r in rows if knob.applies(r.question))
    best, step = loss(rows, found), 0.25
    while step > 0.01:
        moved = False
        for knob in stage.knobs:
            for towards in (knob.low, knob.high):
                trial = found | {knob: found[knob] + step * (towards - found[knob])}
                worth = loss(rows, trial)
                if worth < best - 1e-6:
                    best, found, moved = worth, trial, True
        step = step if moved else step / 2
    return found


def report(rows: Iterable[Timed], values: Values) -> None:
    """Print each source's median error and bias with the constants at `values`."""
    sources: dict[str, list[float]] = {}
    for row in rows:
        key = row.source + (" fp8" if row.fp8 else "")
        sources.setdefault(key, []).append(error(row, values))
    for source, errors in sources.items():
        middle = sorted(abs(e) for e in errors)[len(errors) // 2]
        bias = sorted(errors)[len(errors) // 2]
        held = "held out" if source.split()[0] in HELD_OUT else ""
        print(f"{source[:40]:<40} {len(errors):>5} {middle:7.1%} {bias:+7.1%} {held}")


def main() -> None:
    """Fit every stage in turn and print the constants."""
    rows = [
        Timed(source=row.source, fp8=row.fp8, question=row.question, speed=row.speed)
        for row in load()
        if row.question is not None and row.speed is not None and not row.left_out_speed
    ]
    values: Values = {}
    for stage in STAGES:
        chosen = [r for r in rows if r.source in stage.sources]
        values = fit(stage, chosen[:: stage.stride], values)
    for knob, value in values.items():
        print(f"{knob.owner}.{knob.field} = {value:.4g}")
    report(rows, values)


if __name__ == "__main__":
    main()
