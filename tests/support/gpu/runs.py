"""The measured runs of ``tests/truth/gpu_runs.json``, each beside what the planner says of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu.case import Case, Prediction
from qwenft_plan.hardware import Device, find_device

__all__ = ["TRUTH", "Run", "device", "found", "read"]

TRUTH = Path(__file__).parents[2] / "truth" / "gpu_runs.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One case as it was measured.

    ``allocated``, ``reserved``: bytes of live tensors and of torch's pool at the peak; ``outside``:
    what the process took beside the pool. ``earlier``: before the loss computed its gradients
    along with itself, so only its memory is comparable.
    """

    case: Case
    seconds: float
    allocated: int
    reserved: int
    outside: int
    earlier: bool

    @property
    def total(self) -> int:
        """Bytes that the device must have."""
        return self.reserved + self.outside

    @property
    def tokens_per_second(self) -> float:
        """Tokens of a step over its seconds."""
        return self.case.tokens / self.seconds

    @property
    def flops(self) -> float:
        """FLOP/s of the model itself: 6 for each multiplying parameter, and causal attention."""
        return self.tokens_per_second * self.case.shape.flops_per_token(self.case.length)

    def predicted(self) -> Prediction:
        """Return what the planner says."""
        return self.case.predicted(device())


def found() -> dict[str, Any]:
    """Return the file's content."""
    return dict(json.loads(TRUTH.read_text(encoding="utf-8")))


def device() -> Device:
    """Return the GPU of the runs, as the planner knows it."""
    known = find_device(found()["gpu"])
    assert known is not None
    return known


def read(*, ours: bool | None = True) -> Sequence[Run]:
    """Return the runs: ours, Hugging Face's loop's, or with None both."""
    entries = found()["runs"]
    usual = sorted(entry["outside"] for entry in entries if entry["outside"] is not None)
    runs = [
        Run(
            case=Case(**entry["case"]),
            seconds=entry["seconds"],
            allocated=entry["allocated"],
            reserved=entry["reserved"],
            # Another process was on the device once: what a context takes otherwise stands in.
            outside=usual[len(usual) // 2] if entry["outside"] is None else entry["outside"],
            earlier=entry.get("earlier", False),
        )
        for entry in entries
    ]
    return [run for run in runs if ours is None or (run.case.who == "qwenft") == ours]
