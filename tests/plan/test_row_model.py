"""The model of a row is found by its dimensions, else its name, else its size."""

from __future__ import annotations

from typing import Any

import pytest

from qwenft_plan.errors import SpecError
from qwenft_plan.model import ModelShape
from qwenft_plan.row_model import row_model

# Dense models that tables name without dimensions: billions of parameters as published.
NAMED = [
    ("Llama-3.1-8B", 8.03),
    ("Llama 3 8B", 8.03),
    ("Meta-Llama-3.1-70B", 70.55),
    ("llama3.1-405b", 405.9),
    ("Llama-3.2-1B", 1.24),
    ("Llama-3.2-3B", 3.21),
    ("Llama-2-7B", 6.74),
    ("llama2 13b", 13.02),
    ("Llama-2-70B", 68.98),
    ("LLaMA-65B", 65.29),
    ("LLaMA-33B", 32.53),
    ("Mistral-7B-v0.1", 7.24),
    ("InternLM-7B", 7.32),
    ("InternLM-20B", 20.1),
    ("Nemotron-4-340B", 341.0),
    ("Nemotron-4-15B", 15.6),
    ("GPT-3 175B", 175.0),
]

DIMENSIONS: dict[str, Any] = {
    "model": "new",
    "hidden": "4096",
    "layers": "32",
    "heads": "32",
    "kv_heads": "8",
    "ffn": "14336",
    "vocab": "128256",
}


def shape(**columns: Any) -> ModelShape:
    return row_model(columns)


@pytest.mark.parametrize(("name", "billions"), NAMED)
def test_a_named_model_has_about_its_published_size(name: str, billions: float) -> None:
    found = shape(model=name, params_b=str(billions))
    assert found.parameters / 1e9 == pytest.approx(billions, rel=0.03)


@pytest.mark.parametrize(
    "name",
    ["Qwen/Qwen1.5-7B", "Qwen1.5-7B-Chat", "Qwen2.5 7B", "qwen3-8b", "Qwen/Qwen2.5-72B-Instruct"],
)
def test_a_qwen_needs_no_dimensions(name: str) -> None:
    assert shape(model=name).parameters == ModelShape.known(name.replace(" ", "-")).parameters


def test_dimensions_win_over_the_name() -> None:
    found = shape(**(DIMENSIONS | {"model": "Qwen1.5-7B", "hidden": "2048", "heads": "16"}))
    assert (found.hidden, found.heads) == (2048, 16)


def test_dimensions_are_read_as_they_stand() -> None:
    found = shape(**DIMENSIONS)
    assert (found.hidden, found.layers, found.heads, found.kv_heads) == (4096, 32, 32, 8)
    assert (found.ffn, found.vocab, found.head_dim) == (14336, 128256, 128)


@pytest.mark.parametrize(
    ("missing", "attribute", "expected"),
    [
        ("heads", "heads", 32),
        ("kv_heads", "kv_heads", 32),
        ("ffn", "ffn", 4 * 4096),
        ("vocab", "vocab", 50257),
    ],
)
def test_a_missing_dimension_is_the_usual_one(missing: str, attribute: str, expected: int) -> None:
    found = shape(**{key: value for key, value in DIMENSIONS.items() if key != missing})
    assert getattr(found, attribute) == expected


def test_there_are_never_more_key_value_heads_than_heads() -> None:
    assert shape(**(DIMENSIONS | {"heads": "4", "kv_heads": "8"})).kv_heads == 4


@pytest.mark.parametrize(
    ("billions", "tied", "gated"),
    [("8.03", False, True), ("7.50", True, True), ("6.15", False, False), ("5.63", True, False)],
)
def test_gate_and_tied_embeddings_are_those_whose_size_is_nearest(
    billions: str, *, tied: bool, gated: bool
) -> None:
    found = shape(**DIMENSIONS, params_b=billions)
    assert (found.tied, found.gated) == (tied, gated)
    assert found.parameters / 1e9 == pytest.approx(float(billions), rel=0.01)


@pytest.mark.parametrize(
    ("name", "ffn", "gated"),
    [
        ("new", "14336", True),
        ("new", "16384", False),
        ("GPT-3 6.7B", "14336", False),
        ("MPT-7B", "14336", False),
        ("megatron-8b", "14336", False),
        ("OPT-6.7b", "14336", False),
        ("Bloom-7b", "14336", False),
    ],
)
def test_without_a_size_older_families_have_no_gate(name: str, ffn: str, *, gated: bool) -> None:
    assert shape(**(DIMENSIONS | {"model": name, "ffn": ffn})).gated is gated


@pytest.mark.parametrize(
    ("name", "layers"),
    [("Llama-3 (4 layers)", 4), ("Llama-3 truncated to 8 layers", 8), ("Llama-3 (1 layer)", 1)],
)
def test_a_truncated_model_has_the_layers_that_its_name_says(name: str, layers: int) -> None:
    assert shape(**(DIMENSIONS | {"model": name})).layers == layers


@pytest.mark.parametrize("billions", [0.125, 1.0, 7.0, 13.0, 70.0, 175.0])
def test_a_size_alone_gives_a_model_of_about_that_size(billions: float) -> None:
    found = shape(model="new", params_b=str(billions))
    assert found.parameters / 1e9 == pytest.approx(billions, rel=0.15)
    assert found.hidden % found.heads == 0


@pytest.mark.parametrize("billions", [0.1, 1, 10, 100])
def test_a_larger_size_gives_a_larger_model(billions: float) -> None:
    smaller, larger = (shape(model="new", params_b=str(size)) for size in (billions, 3 * billions))
    assert smaller.parameters < larger.parameters


def test_hidden_size_without_layers_is_not_enough() -> None:
    with pytest.raises(SpecError) as caught:
        shape(model="new", hidden="4096")
    assert caught.value.path == "hidden"


@pytest.mark.parametrize("value", ["51200(paper)", "51200 (padded)", "51200.0", 51200, 51200.0])
def test_a_dimension_may_be_a_number_or_carry_a_remark(value: object) -> None:
    assert shape(**(DIMENSIONS | {"vocab": value})).vocab == 51200


@pytest.mark.parametrize(
    "columns",
    [
        {"model": "Mixtral-8x7B"},
        {"model": "Qwen3-30B-A3B"},
        {"model": "my moe"},
        {"model": "DeepSeek-V2-Lite"},
        DIMENSIONS | {"ep": "8"},
        DIMENSIONS | {"model": "gpt-oss-20b"},
    ],
)
def test_a_mixture_of_experts_is_refused_even_with_dimensions(columns: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="mixture of experts") as caught:
        row_model(columns)
    assert caught.value.path == "model"
