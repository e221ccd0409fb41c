"""Rows of a table of runs, and what `estimate` says of them."""

from __future__ import annotations

from typing import Any

from qwenft_plan.estimate import estimate_row


def row(**columns: Any) -> dict[str, Any]:
    """Return a plain run of Qwen1.5-7B on a node of eight H100 with some columns changed."""
    plain: dict[str, Any] = {
        "model": "Qwen1.5-7B",
        "gpu": "H100-SXM-80GB",
        "n_gpus": "8",
        "gpus_per_node": "8",
        "seq_len": "2048",
        "global_batch": "16",
        "micro_batch": "1",
        "fsdp": "8",
        "tp": "1",
        "pp": "1",
        "cp": "1",
        "recompute": "full",
        "precision": "bf16_mixed",
        "framework": "torchtitan(FSDP2)",
        "kind": "pretrain",
    }
    return plain | columns


def answer(**columns: Any) -> dict[str, Any]:
    """Return the estimate of a plain run with some columns changed."""
    return estimate_row(row(**columns))
