"""A refusal says what is missing and what would fit, and never changes what was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from qwenft_plan.errors import Infeasible
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import plan
from qwenft_plan.spec import FinetuneSpec


def refusal(name: str, on: str, **sections: Any) -> str:
    spec = FinetuneSpec.from_mapping(
        {
            "model": {"name": name},
            "dataset": {"path": "/data/dataset.pt"},
            "output": {"path": "/data/out"},
            **sections,
        }
    )
    with pytest.raises(Infeasible) as caught:
        plan(spec=spec, model=ModelShape.known(name), inventory=Inventory.parse(on))
    return " | ".join(caught.value.reasons)


def test_a_refusal_has_need_budget_and_gap() -> None:
    text = refusal("Qwen/Qwen1.5-7B", "1x1xH100-80G")
    assert "GiB of 72.5" in text
    assert "GiB too much" in text


@pytest.mark.parametrize(
    ("name", "on", "words"),
    [
        (
            "Qwen/Qwen1.5-7B",
            "1x1xH100-80G",
            ("LoRA (", "GiB; training.method: lora)", "QLoRA (", "2×1 H100-80GB"),
        ),
        ("Qwen/Qwen1.5-72B", "4x8xA100-40G", ("8-bit Adam", "LoRA", "8×8 A100-40GB")),
        ("Qwen/Qwen1.5-14B", "1x1xL4", ("QLoRA",)),
    ],
)
def test_a_refusal_names_what_would_fit(name: str, on: str, words: tuple[str, ...]) -> None:
    text = refusal(name, on)
    assert "what would fit" in text
    assert [word for word in words if word not in text] == []


def test_a_change_that_would_not_fit_either_is_not_named() -> None:
    text = refusal("Qwen/Qwen1.5-110B", "1x1xL4")
    assert "LoRA" not in text
    assert "8-bit" not in text


def test_shorter_sequences_are_named_when_they_would_do() -> None:
    text = refusal(
        "Qwen/Qwen2.5-1.5B",
        "1x1xA100-40G",
        training={"sequenceLength": 8192, "batchSize": 1},
        parallelism={"activationCheckpointing": "none"},
    )
    assert "sequences of" in text


def test_no_nodes_at_all_say_so() -> None:
    spec = FinetuneSpec.from_mapping(
        {
            "model": {"name": "Qwen/Qwen1.5-7B"},
            "dataset": {"path": "/data/dataset.pt"},
            "output": {"path": "/data/out"},
        }
    )
    with pytest.raises(Infeasible, match="no node is ready"):
        plan(spec=spec, model=ModelShape.known("Qwen/Qwen1.5-7B"), inventory=Inventory(nodes=()))


@pytest.mark.parametrize(("most", "raised"), [(1, True), (2, False), (None, False)])
def test_more_nodes_than_the_request_allows_are_named_as_such(
    most: int | None, *, raised: bool
) -> None:
    nodes = {"nodes": {"max": most}} if most else {}
    text = refusal("Qwen/Qwen1.5-7B", "1x1xH100-80G", resources=nodes)
    assert ("larger resources.nodes.max" in text) is raised
