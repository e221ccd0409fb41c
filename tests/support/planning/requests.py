"""Requests and plans in one line."""

from __future__ import annotations

from typing import Any

import pytest

from qwenft_plan.errors import Infeasible
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan
from qwenft_plan.spec import FinetuneSpec

SMALL = "Qwen/Qwen2.5-0.5B"


def config(**changes: Any) -> dict[str, Any]:
    """Return the `config.json` of a small Qwen2 with some keys changed (None drops one)."""
    whole: dict[str, Any] = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 256,
        "tie_word_embeddings": False,
        "max_position_embeddings": 4096,
    } | changes
    return {key: value for key, value in whole.items() if value is not None}


def request(name: str = SMALL, **sections: Any) -> FinetuneSpec:
    """Return the request for a hub name; `sections` are the other sections of `spec`."""
    mapping = {
        "model": {"name": name},
        "dataset": {"path": "/data/qwen_dataset.pt"},
        "output": {"path": "/data/out"},
    }
    return FinetuneSpec.from_mapping(mapping | sections)


def planned(on: str | Inventory, name: str = SMALL, **sections: Any) -> Planned:
    """Return the plan for a request on an inventory such as `1x8xH100-80G`."""
    spec = request(name, **sections)
    inventory = Inventory.parse(on) if isinstance(on, str) else on
    return plan(spec=spec, model=ModelShape.for_spec(spec.model), inventory=inventory)


def refusal(on: str | Inventory, name: str = SMALL, **sections: Any) -> tuple[str, ...]:
    """Return the reasons why nothing fits; fails when something does."""
    with pytest.raises(Infeasible) as caught:
        planned(on, name, **sections)
    return caught.value.reasons
