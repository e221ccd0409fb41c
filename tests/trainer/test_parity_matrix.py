"""Every plan with every feature, compiled and not, beside the stock Hugging Face loop.

`test_parity.py` has each plan and each feature once; this is their product, for `make test-full`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from parity import gang, tiny
from parity.gang import Case
from parity.tiny import Point

pytestmark = pytest.mark.torch

FP32 = Point(loss=1e-5, norm=1e-4)
BF16 = Point(loss=5e-3, norm=5e-2)
Choices = Mapping[str, Any]
GQA = {"num_key_value_heads": 2}

# family and changes of its config; each of them also with the layers that eight stages need.
MODELS: Mapping[str, tuple[str, Choices]] = {
    "qwen2": ("qwen2", {}),
    "qwen2 gqa": ("qwen2", GQA),
    "qwen2 tied": ("qwen2", GQA | {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", GQA),
}
DEEP = {"num_hidden_layers": 8}
PLANS: Mapping[str, Choices] = {
    "plain": {},
    "replicate 2": {"dp_replicate": 2},
    "shard 2": {"dp_shard": 2},
    "shard 2 kept": {"dp_shard": 2, "reshard_after_forward": False},
    "shard 2 × replicate 2": {"dp_shard": 2, "dp_replicate": 2},
    "shard 2 × replicate 2 kept": {
        "dp_shard": 2, "dp_replicate": 2, "reshard_after_forward": False,
    },
    "tp 2": {"tp": 2},
    "tp 4": {"tp": 4},
    "pp 2 GPipe": {"pp": 2, "accumulation": 4, "pipeline_schedule": "GPipe"},
    "pp 2 1F1B": {"pp": 2, "accumulation": 4},
    "pp 2 interleaved": {"pp": 2, "accumulation": 4, "pipeline_schedule": "Interleaved1F1B"},
    "pp 2 zero bubble": {"pp": 2, "accumulation": 4, "pipeline_schedule": "ZBVZeroBubble"},
    "pp 4 GPipe": {"pp": 4, "accumulation": 4, "pipeline_schedule": "GPipe"},
    "pp 4 1F1B": {"pp": 4, "accumulation": 4},
    "pp 4 interleaved": {"pp": 4, "accumulation": 4, "pipeline_schedule": "Interleaved1F1B"},
    "pp 4 zero bubble": {"pp": 4, "accumulation": 4, "pipeline_schedule": "ZBVZeroBubble"},
    "shard 2 × tp 2": {"dp_shard": 2, "tp": 2},
    "shard 2 × pp 2": {"dp_shard": 2, "pp": 2, "accumulation": 4},
    "tp 2 × pp 2": {"tp": 2, "pp": 2, "accumulation": 4},
    "shard 2 × tp 2 × pp 2": {"dp_shard": 2, "tp": 2, "pp": 2, "accumulation": 4},
}  # fmt: skip
EIGHT_STAGES = ("pp 4 interleaved", "pp 4 zero bubble")
HALVES = ("pp 2 zero bubble", "pp 4 zero bubble")
"""Zero bubble runs backward in two halves; torch 2.15 fails in the second under selective
recomputation ("Trying to backward an extra time") and in compiled layers. Such plans are refused:
`tests/launch/test_planfile.py`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """What a plan is tried with; AdamW is fused and clips in all of them."""

    plan: Choices = field(default_factory=dict)
    options: Choices = field(default_factory=dict)
    kind: str = "train"
    model: str = "qwen2"

    def compiled(self, backend: str = "aot_eager") -> "Feature":
        return replace(self, options={**self.options, "compile_backend": backend})


PLAIN: Mapping[str, Feature] = {
    "as it is": Feature(),
    "full recompute": Feature(plan={"activation_checkpointing": "full"}),
    "selective recompute": Feature(plan={"activation_checkpointing": "selective"}),
    "accumulation": Feature(plan={"accumulation": 2}),
    "packed": Feature(kind="train_packed"),
    "logits at once": Feature(options={"chunked_loss": False}),
    "bf16": Feature(plan={"precision": "bf16"}),
    **{name: Feature(model=name) for name in MODELS if name != "qwen2"},
}
FEATURES: Mapping[str, Feature] = {
    **PLAIN,
    **{f"compiled, {name}": feature.compiled() for name, feature in PLAIN.items()},
    "compiled by inductor": Feature().compiled("inductor"),
}
INDUCTOR = ("plain", "shard 2", "tp 2", "pp 2 1F1B")
"""The compiler takes half a minute a plan; what it is given is the same under the others."""


def is_left_out(name: str, feature: str) -> bool:
    """Tell whether the product refuses a plan with a feature, by a rule that has its own tests."""
    if FEATURES[feature].model == "qwen2 tied" and "pp" in PLANS[name]:
        return True
    return name in HALVES and ("compiled" in feature or "selective" in feature)


def is_of_use(name: str, feature: str) -> bool:
    """Tell whether a plan with a feature is another run than without."""
    if feature == "compiled by inductor":
        return name in INDUCTOR
    # A pipeline accumulates as it is.
    return not feature.endswith("accumulation") or "accumulation" not in PLANS[name]


COMBINATIONS = [
    (name, feature)
    for name in PLANS
    for feature in FEATURES
    if is_of_use(name, feature) and not is_left_out(name, feature)
]


def rows_of(name: str, feature: str) -> int:
    """Return the samples of a step: of two a rank there are never two that fit into one row."""
    four = PLANS[name].get("dp_shard", 1) * PLANS[name].get("dp_replicate", 1) == 4
    return 16 if four and FEATURES[feature].kind == "train_packed" else tiny.ROWS


def model_of(name: str, feature: str) -> str:
    deep = " deep" if name in EIGHT_STAGES else ""
    return FEATURES[feature].model + deep


def degree(plan: Choices) -> int:
    ranks = 1
    for axis in ("pp", "dp_replicate", "dp_shard", "tp"):
        ranks *= plan.get(axis, 1)
    return ranks


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    configs = {
        name + deep: tiny.make_config(family, **changes, **more)
        for name, (family, changes) in MODELS.items()
        for deep, more in (("", {}), (" deep", DEEP))
    }
    return {name: tiny.write_model(folder / name, config) for name, config in configs.items()}


@pytest.fixture(scope="module")
def reference(models: Mapping[str, Path]) -> Callable[[str, int], Sequence[Point]]:
    """Look the stock loop's steps up, of a model and a number of samples a step."""
    return cache(lambda name, rows: tiny.reference(models[name], rows=rows))


@pytest.fixture(scope="module")
def outcome(models: Mapping[str, Path]) -> Callable[[str, str], Any]:
    """Look a combination's steps up; the first of a plan runs all of the plan's that compile alike.

    Not all of the plan's: a gang has its time, and ends with the first case that raises.
    """
    done: dict[tuple[str, str], Any] = {}

    def look_up(name: str, feature: str) -> Any:
        if (name, feature) not in done:
            kind = feature.partition(",")[0] == "compiled"
            cases = {
                each: case_of(models, name, each)
                for plan, each in COMBINATIONS
                if plan == name and (each.partition(",")[0] == "compiled") == kind
            }
            missing = {each: {"error": "an earlier case ended the gang"} for each in cases}
            found = missing | gang.run(degree(PLANS[name]), list(cases.values()))
            done.update({(name, each): value for each, value in found.items()})
        return done[name, feature]

    return look_up


def case_of(models: Mapping[str, Path], name: str, feature: str) -> Case:
    asked = FEATURES[feature]
    return Case(
        name=feature,
        model=models[model_of(name, feature)],
        plan={**PLANS[name], **asked.plan, "rows": rows_of(name, feature)},
        kind=asked.kind,
        options=asked.options,
    )


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "feature"), COMBINATIONS)
def test_a_plan_with_a_feature_trains_like_the_stock_loop(
    name: str,
    feature: str,
    outcome: Callable[[str, str], Any],
    reference: Callable[[str, int], Sequence[Point]],
) -> None:
    found = gang.points(outcome(name, feature))
    assert len(found) == tiny.STEPS
    stock = reference(model_of(name, feature), rows_of(name, feature))
    difference = gang.worst(found, stock)
    limit = BF16 if "bf16" in feature else FP32
    print(f"{name}, {feature}: loss {difference.loss:.1e}, norm {difference.norm:.1e}")
    assert difference.loss <= limit.loss
    assert difference.norm <= limit.norm


def test_the_matrix_has_every_plan_with_every_feature_but_what_is_refused() -> None:
    accumulating = {name for name, plan in PLANS.items() if "accumulation" in plan}
    for feature in FEATURES:
        found = {name for name, each in COMBINATIONS if each == feature}
        if feature == "compiled by inductor":
            continue
        missing = set(PLANS) - found
        allowed = set(HALVES) if "compiled" in feature or "selective" in feature else set()
        if "tied" in feature:
            allowed |= {name for name, plan in PLANS.items() if "pp" in plan}
        if "accumulation" in feature:
            allowed |= accumulating
        assert missing == allowed, feature
