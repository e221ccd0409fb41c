"""Fit the own trainer's constants of speed to the measured runs on a GPU.

`PYTHONPATH=operator/src:trainer_image/src:tests/support python -m gpu.calibrate` prints the
constants to put into `qwenft_plan.runtimes`, and what a fit without each model says of that model;
nothing is written. There is one source so far, one card, so a model stands in for the source that
is held out elsewhere. `attention` is not fitted here: it was read off a profiled step's kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from accuracy.calibrate import Stage, Values, error, fit, knobs
from gpu.runs import Run, device, read
from qwenft_plan.cost import step_time
from qwenft_plan.row import Question
from qwenft_plan.runtimes import OWN

__all__ = ["STAGE", "Stepped", "fitted", "left_out", "stepped"]

SOURCE = "gpu_runs"
STAGE = Stage(
    sources=(SOURCE,),
    knobs=knobs(OWN.name, matmul=(0.8, 1.1), traffic=(5.0, 30.0), compiled_traffic=(5.0, 30.0)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepped:
    """A run of today's trainer; what counts is the seconds of its step."""

    source: str
    question: Question
    seconds: float
    model: str

    def error(self, question: Question) -> float:
        """Return the logarithm of predicted over measured seconds."""
        return math.log(step_time(question.work, question.layout).total / self.seconds)


def stepped() -> tuple[Stepped, ...]:
    """Return the runs whose speed is that of today's code."""
    return tuple(_stepped(run) for run in read() if not run.earlier)


def fitted(rows: Sequence[Stepped]) -> Values:
    """Return the constants fitted to ``rows``, from where they stand."""
    return fit(STAGE, rows, {})


def left_out(rows: Sequence[Stepped]) -> dict[str, float]:
    """Return, for each model, the median error of a fit that has seen the other models only.

    A share of the measured seconds. A constant that no other model's run moves stays as it is.
    """
    found = {}
    for model in dict.fromkeys(row.model for row in rows):
        values = fitted([row for row in rows if row.model != model])
        mine = [row for row in rows if row.model == model]
        found[model] = median(abs(math.expm1(error(row, values))) for row in mine)
    return found


def _stepped(run: Run) -> Stepped:
    return Stepped(
        source=SOURCE,
        question=run.case.question(device()),
        seconds=run.seconds,
        model=run.case.model,
    )


def main() -> None:
    """Print the constants and the errors."""
    rows = stepped()
    values = fitted(rows)
    for knob, value in values.items():
        print(f"{knob.owner}.{knob.field} = {value:.4g}")
    off = median(abs(math.expm1(error(row, values))) for row in rows)
    print(f"{len(rows)} runs, off by {off:.1%} in the median")
    for model, share in left_out(rows).items():
        print(f"{model} left out: {share:.1%}")


if __name__ == "__main__":
    main()
