"""The measured runs as typed rows: question, measurement, and why some are left out."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qwenft_plan.errors import SpecError
from qwenft_plan.row import Question, parse_row

__all__ = ["HELD_OUT", "HELD_OUT_MEMORY", "TRUTH", "Measured", "load", "visible"]

TRUTH = Path(__file__).parents[2] / "truth" / "measured_runs.csv"

HELD_OUT = ("fms_fsdp", "korthikanti_tab5", "mcore_h100_table",
            "narayanan2021", "torchtune_flags")  # fmt: skip
"""Sources that no calibration of speed saw."""

HELD_OUT_MEMORY = ("torchtitan_h100_202412", "torchtune_flags")
"""Sources that no calibration of memory saw."""

_HIDDEN = ("source", "source_id", "note")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measured run. `speed` is tokens/s per device, `memory` GiB; None where not measured."""

    source: str
    columns: dict[str, str]
    question: Question | None
    refused: str
    speed: float | None
    memory: float | None
    left_out_speed: str
    left_out_memory: str

    @property
    def fp8(self) -> bool:
        """Whether matrix multiplications ran in fp8."""
        precision = self.columns["precision"].lower()
        return "fp8" in precision or "float8" in precision

    @property
    def billions(self) -> float:
        """Billions of parameters, from the shape."""
        return self.question.work.model.parameters / 1e9 if self.question else 0.0

    @property
    def nodes(self) -> int:
        """Nodes of the run."""
        gpus = int(self.columns["n_gpus"])
        return -(-gpus // int(self.columns["gpus_per_node"] or 8))


@cache
def load() -> tuple[Measured, ...]:
    """Return every row of the table, in order."""
    with TRUTH.open(encoding="utf-8", newline="") as file:
        return tuple(_measured(columns) for columns in csv.DictReader(file))


def visible(columns: dict[str, str]) -> dict[str, str]:
    """Return the columns that an estimate may see."""
    return {
        key: value
        for key, value in columns.items()
        if not key.startswith("measured_") and key not in _HIDDEN
    }


def _measured(columns: dict[str, str]) -> Measured:
    question, refused = None, ""
    try:
        question = parse_row(visible(columns))
    except SpecError as error:
        refused = str(error)
    memory = columns["measured_mem_gb"]
    return Measured(
        source=columns["source_id"],
        columns=columns,
        question=question,
        refused=refused,
        speed=_speed(columns),
        memory=float(memory) if memory else None,
        left_out_speed=_why_not_speed(columns),
        left_out_memory=_why_not_memory(columns),
    )


def _speed(columns: dict[str, str]) -> float | None:
    """Tokens/s per device, where only TFLOP/s are printed by the source's own FLOP formula."""
    if columns["measured_tokens_per_s_per_gpu"]:
        return float(columns["measured_tokens_per_s_per_gpu"])
    if not columns["measured_tflops_per_gpu"]:
        return None
    hidden, layers = int(columns["hidden"]), int(columns["layers"])
    length, vocab = int(columns["seq_len"]), int(columns["vocab"])
    passes = 96 if columns["recompute"] == "full" else 72
    vocabulary = vocab / ((16 if passes == 96 else 12) * layers * hidden)
    flops = passes * layers * hidden**2 * (1 + length / (6 * hidden) + vocabulary)
    return float(columns["measured_tflops_per_gpu"]) * 1e12 / flops


def _why_not_speed(columns: dict[str, str]) -> str:
    if columns["source_id"] == "torchtune_flags" and "unpacked" in columns["note"]:
        return "padding counted as work, not as tokens"
    return ""


_TORCHTUNE_FLAGS = {
    "+ Packed Dataset": "whole-vocabulary loss, a flag that only the note shows",
    "+ Compile": "whole-vocabulary loss, a flag that only the note shows",
    "+ Fuse optimizer": "optimizer step in backward, a flag that only the note shows",
    "+ Activation Offloading": "activation offloading, a flag that only the note shows",
    "+ 8-bit AdamW": "8-bit optimizer, a flag that only the note shows",
    "LoRA": "activation offloading, a flag that only the note shows",
    "Baseline": "unpacked batches far shorter than the sequence length",
}


def _why_not_memory(columns: dict[str, str]) -> str:
    note = columns["note"]
    if columns["source_id"] == "ms_swift_bench" and int(columns["seq_len"]) > 2048:
        return "noisy by the table's cautions: few samples reach this length"
    if columns["source_id"] == "torchtune_flags":
        return next((why for flag, why in _TORCHTUNE_FLAGS.items() if flag in note), "")
    return ""
