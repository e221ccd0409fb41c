"""Plan replay: requests whose plans are committed. `python -m planning.golden` writes them anew.

A change of a committed plan is a change of behaviour and belongs into the changelog.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwenft_plan.errors import Infeasible
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import plan
from qwenft_plan.spec import FinetuneSpec

FOLDER = Path(__file__).parents[2] / "golden" / "plans"
TINY = {
    "model_type": "qwen2",
    "hidden_size": 320,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 960,
    "vocab_size": 8192,
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
}
_DEMO = {"batchSize": 32, "sequenceLength": 256, "precision": "fp32"}

# name → (model, inventory, other sections of the spec)
REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "demo": ("", "2x1xcpu", {"training": _DEMO}),
    "demo-pipeline": ("", "2x1xcpu", {"training": _DEMO, "parallelism": {"pipeline": 2}}),
    "demo-tensor": ("", "2x1xcpu", {"training": _DEMO, "parallelism": {"tensor": 2}}),
    "7b-one-h100": ("Qwen/Qwen1.5-7B", "1x1xH100-80G", {}),
    "7b-eight-h100": ("Qwen/Qwen1.5-7B", "1x8xH100-80G", {}),
    "7b-sixteen-a100": ("Qwen/Qwen1.5-7B", "2x8xA100-80G", {}),
    "7b-ethernet": ("Qwen/Qwen1.5-7B", "4x8xL40S", {}),
    "05b-one-l4": ("Qwen/Qwen2.5-0.5B", "1x1xL4", {}),
    "72b-64-h100": ("Qwen/Qwen1.5-72B", "8x8xH100-80G", {"training": {"sequenceLength": 4096}}),
    "32b-mi300x": ("Qwen/Qwen3-32B", "2x8xMI300X", {"training": {"sequenceLength": 8192}}),
    "mixed-nodes": ("Qwen/Qwen2.5-7B", "1x8xA100-80G,2x4xH100-80G", {}),
    "long-context": ("Qwen/Qwen3-8B", "4x8xH200", {"training": {"sequenceLength": 32768}}),
    "7b-8bit-one-h200": ("Qwen/Qwen2.5-7B", "1x1xH200", {"training": {"optimizer": "adamw8bit"}}),
    "7b-offload-two-h100": (
        "Qwen/Qwen2.5-7B",
        "1x2xH100-80G",
        {"training": {"offloadOptimizer": True}},
    ),
    "7b-qlora-one-4090": (
        "Qwen/Qwen2.5-7B",
        "1x1xRTX4090",
        {"training": {"method": "qlora", "sequenceLength": 1024}},
    ),
    "7b-lora-one-l40s": ("Qwen/Qwen2.5-7B", "1x1xL40S", {"training": {"method": "lora"}}),
    "72b-qlora-eight-a100-40": (
        "Qwen/Qwen2.5-72B",
        "1x8xA100-40G",
        {"training": {"method": "qlora"}},
    ),
    "72b-offload-refused": (
        "Qwen/Qwen2.5-72B",
        "1x1xH100-80G",
        {"training": {"offloadOptimizer": True}},
    ),
    "1024-h100": ("Qwen/Qwen1.5-72B", "128x8xH100-80G", {"training": {"batchSize": 1024}}),
}


def replay(name: str) -> str:
    """Return the answer to one request as it is committed."""
    model, on, sections = REQUESTS[name]
    spec = FinetuneSpec.from_mapping(
        {
            "model": {"name": model} if model else {"path": "/data/model", "config": TINY},
            "dataset": {"path": "/data/dataset.pt"},
            "output": {"path": "/data/out"},
            **sections,
        }
    )
    shape = ModelShape.for_spec(spec.model)
    try:
        found = plan(spec=spec, model=shape, inventory=Inventory.parse(on))
    except Infeasible as error:
        answer: dict[str, Any] = {"infeasible": list(error.reasons)}
    else:
        answer = {
            "summary": found.summary,
            "reason": found.reason,
            "plan": found.plan.to_mapping(),
            "alternatives": [f"{a.summary}: {a.rejected}" for a in found.alternatives],
        }
    return json.dumps({"on": on, **answer}, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for each in REQUESTS:
        (FOLDER / f"{each}.json").write_text(replay(each), encoding="utf-8")
