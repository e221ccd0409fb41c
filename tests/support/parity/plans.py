"""The plans under which users' scripts are tried, as ``QWENFT_PLAN`` names them in a file."""

from collections.abc import Mapping
from typing import Any

ROWS = 8
"""Samples that the scripts give the model at once; the last batch of an epoch has fewer."""
SHAPE: Mapping[str, Any] = {
    "schema_version": 1, "world_size": 2, "nodes": 1, "processes_per_node": 2, "pp": 1,
    "dp_replicate": 1, "dp_shard": 1, "tp": 1, "micro_batch_size": ROWS,
    "gradient_accumulation_steps": 1, "global_batch_size": ROWS, "sequence_length": 20,
}  # fmt: skip
PLANS: Mapping[str, Mapping[str, Any]] = {
    "replicate 2": {"dp_replicate": 2, "micro_batch_size": 4},
    "shard 2": {"dp_shard": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 2},
    "tensor 2": {"tp": 2},
    "pipeline 2": {"pp": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 4},
}
"""One axis each, on two ranks."""
WIDER: Mapping[str, Mapping[str, Any]] = {
    "shard 2, replicate 2": {"dp_shard": 2, "dp_replicate": 2, "micro_batch_size": 2},
    "shard 2, tensor 2": {"dp_shard": 2, "tp": 2, "micro_batch_size": 4},
    "shard 2, pipeline 2": {
        "dp_shard": 2, "pp": 2, "micro_batch_size": 1, "gradient_accumulation_steps": 4,
    },
    "tensor 2, pipeline 2": {
        "tp": 2, "pp": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 4,
    },
}  # fmt: skip
"""Two axes each, on four ranks."""
SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "interleaved, full recompute": PLANS["pipeline 2"] | {
        "pipeline_schedule": "Interleaved1F1B", "activation_checkpointing": "full",
    },
    "zero bubble": PLANS["pipeline 2"] | {"pipeline_schedule": "ZBVZeroBubble"},
    "shard 2 kept, selective recompute": PLANS["shard 2"] | {
        "reshard_after_forward": False, "activation_checkpointing": "selective",
    },
    "shard 2, tensor 2, pipeline 2": {
        "dp_shard": 2, "tp": 2, "pp": 2, "micro_batch_size": 1, "gradient_accumulation_steps": 4,
    },
}  # fmt: skip
"""What changes how an axis runs, and all axes at once."""


def plan_file(name: str, **choices: Any) -> Mapping[str, Any]:
    """Return the whole plan of a name, with further choices."""
    plan = SHAPE | {**PLANS, **WIDER, **SPECIAL}[name] | choices
    ranks = plan["pp"] * plan["dp_replicate"] * plan["dp_shard"] * plan["tp"]
    return plan | {"world_size": ranks, "processes_per_node": ranks}
