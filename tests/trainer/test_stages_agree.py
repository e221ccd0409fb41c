"""Evaluation, logits, clipping and random weights do not depend on the plan either."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from parity import gang, tiny
from parity.gang import Case

pytestmark = pytest.mark.torch

PLANS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "shard": {"dp_shard": 2},
    "replicate": {"dp_replicate": 2},
    "tensor": {"tp": 2},
    "pipeline": {"pp": 2, "accumulation": 2},
    "V": {"pp": 2, "accumulation": 2, "pipeline_schedule": "ZBVZeroBubble"},
}
KINDS = ("evaluate", "logits", "fresh", "clip")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("model"), tiny.make_config())


@pytest.fixture(scope="module")
def values(model: Path) -> dict[str, Any]:
    """Everything from one gang of one rank and one of two."""

    def cases(ranks: int) -> list[Case]:
        options: Mapping[str, Mapping[str, Any]] = {"fresh": {"config": model, "seed": 3}}
        return [
            Case(
                name=f"{kind} {name}",
                model=model,
                plan=plan,
                kind=kind,
                options=options.get(kind, {}),
            )
            for name, plan in PLANS.items()
            for kind in KINDS
            if tiny.make_plan(**plan).world_size == ranks
        ]

    return {**gang.run(1, cases(1)), **gang.run(2, cases(2))}


@pytest.mark.parametrize("name", PLANS)
def test_an_evaluation_gives_the_stock_models_sum(
    name: str, values: Mapping[str, Any], model: Path
) -> None:
    stock = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for found, raw in zip(values[f"evaluate {name}"][:2], tiny.make_batches(2), strict=True):
        with torch.no_grad():
            mean = stock(**raw).loss
        tokens = int((raw["labels"][:, 1:] != -100).sum())
        assert found == pytest.approx(float(mean) * tokens, rel=1e-6)


@pytest.mark.parametrize("name", PLANS)
def test_a_short_batch_is_evaluated_too(name: str, values: Mapping[str, Any], model: Path) -> None:
    rows = tiny.make_plan(**PLANS[name]).dp
    raw = {key: value[:rows] for key, value in tiny.make_batches(3)[2].items()}
    stock = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        mean = stock(**raw).loss
    tokens = int((raw["labels"][:, 1:] != -100).sum())
    assert values[f"evaluate {name}"][2] == pytest.approx(float(mean) * tokens, rel=1e-6)


@pytest.mark.parametrize("name", PLANS)
def test_logits_are_the_stock_models(name: str, values: Mapping[str, Any], model: Path) -> None:
    stock = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    row = tiny.make_batches(1)[0]["input_ids"][:1]
    with torch.no_grad():
        expected = stock(row).logits[0, [0, 20]].flatten()
    torch.testing.assert_close(torch.tensor(values[f"logits {name}"]), expected)


@pytest.mark.parametrize("name", PLANS)
def test_random_weights_are_the_same_under_every_plan(name: str, values: Mapping[str, Any]) -> None:
    if name in ("pipeline", "V"):
        # Rank 0 sums its own stages only: less than the whole, but the same seed must reach it.
        assert values[f"fresh {name}"] != values["fresh plain"]
    else:
        assert values[f"fresh {name}"] == values["fresh plain"]


@pytest.mark.parametrize("name", PLANS)
def test_clipping_leaves_exactly_the_limit(name: str, values: Mapping[str, Any]) -> None:
    before, after = values[f"clip {name}"]
    assert before == pytest.approx(values["clip plain"][0], rel=1e-5)
    assert before > 0.5
    assert after == pytest.approx(0.01, rel=1e-3)
