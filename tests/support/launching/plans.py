"""Plan and run files, as the operator mounts them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenft_plan.plan import Plan

MODEL_CONFIG: Mapping[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def make_plan(
    *,
    nodes: int = 1,
    processes_per_node: int = 1,
    accumulation: int = 1,
    rows: int = 4,
    **choices: Any,
) -> Plan:
    """Return a plan of ``nodes`` × ``processes_per_node``, data-parallel unless degrees are given.

    ``rows`` is the global batch.
    """
    world = nodes * processes_per_node
    degrees = {axis: choices.pop(axis, 1) for axis in ("pp", "dp_shard", "tp")}
    others = degrees["pp"] * degrees["dp_shard"] * degrees["tp"]
    replicate = choices.pop("dp_replicate", world // others)
    return Plan(
        world_size=world,
        nodes=nodes,
        processes_per_node=processes_per_node,
        dp_replicate=replicate,
        micro_batch_size=rows // (replicate * degrees["dp_shard"] * accumulation),
        gradient_accumulation_steps=accumulation,
        global_batch_size=rows,
        sequence_length=choices.pop("sequence_length", 32),
        **degrees,
        **choices,
    )


def write_plan(folder: Path, plan: Plan) -> Path:
    """Write the plan file."""
    path = folder / "plan.json"
    path.write_text(plan.to_json(), encoding="utf-8")
    return path


def spec(
    folder: Path, *, training: Mapping[str, Any] | None = None, **sections: Any
) -> dict[str, Any]:
    """Return a request in the CRD's spelling whose files lie under ``folder``, without volumes."""
    return {
        "model": {"path": f"{folder}/model", "config": dict(MODEL_CONFIG)},
        "dataset": {"path": f"{folder}/set.pt"},
        "training": {"maxSteps": 3, "batchSize": 4, "sequenceLength": 32, "precision": "fp32"}
        | dict(training or {}),
        "checkpoint": {"keep": 1},
        "output": {"path": f"{folder}/out"},
    } | sections


def write_run(folder: Path, request: Mapping[str, Any], *, uid: str = "u-1") -> Path:
    """Write the run file."""
    path = folder / "run.json"
    run = {"name": "tiny", "namespace": "default", "uid": uid, "spec": request}
    path.write_text(json.dumps(run), encoding="utf-8")
    return path


def environ(folder: Path, plan: Plan, request: Mapping[str, Any]) -> dict[str, str]:
    """Write both files and return the variables that name them."""
    return {
        "QWENFT_PLAN": str(write_plan(folder, plan)),
        "QWENFT_RUN": str(write_run(folder, request)),
        "QWENFT_ATTEMPT": "1",
    }
