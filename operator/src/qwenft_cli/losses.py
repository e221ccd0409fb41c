"""The loss of a run as a picture that a notebook shows by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qwenft_cli import curve
from qwenft_plan.progress import Progress

__all__ = ["LossCurve"]

_STYLE = """\
.qwenft-loss svg { max-width: 640px; } .qwenft-loss .axis { stroke: #d9dce1; }
.qwenft-loss text { fill: #60646c; font-size: 12px; }
.qwenft-loss polyline { fill: none; stroke-width: 2; }
.qwenft-loss .training { stroke: #0d74ce; } .qwenft-loss b.training { color: #0d74ce; }
.qwenft-loss .validation { stroke: #cc4e00; } .qwenft-loss b.validation { color: #cc4e00; }"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossCurve:
    """Points of (step, nats), oldest first; the last expression of a notebook's cell is drawn."""

    training: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    """A report repeats the last validation: only changes are points."""

    @classmethod
    def of(cls, reports: Iterable[Progress]) -> LossCurve:
        """Read the reports of an attempt."""
        training: list[tuple[int, float]] = []
        validation: list[tuple[int, float]] = []
        for report in reports:
            if report.loss is not None and (not training or training[-1][0] != report.step):
                training.append((report.step, report.loss))
            held = report.validation_loss
            if held is not None and (not validation or validation[-1][1] != held):
                validation.append((report.step, held))
        return cls(training=tuple(training), validation=tuple(validation))

    def _repr_html_(self) -> str:
        series = {"training": self.training, "validation": self.validation}
        drawn = curve.svg(series, "step")
        if not drawn:
            return "<p>no step was reported yet</p>"
        key = " and ".join(f'<b class="{name}">{name}</b>' for name, some in series.items() if some)
        return f'<div class="qwenft-loss"><style>{_STYLE}</style><p>{key} loss</p>{drawn}</div>'
