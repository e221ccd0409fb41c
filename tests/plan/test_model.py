"""What a model costs follows from its dimensions alone, and matches the published sizes."""

from __future__ import annotations

from typing import Any

import pytest

from planning import config, request
from qwenft_plan.errors import SpecError
from qwenft_plan.model import ModelShape
from qwenft_plan.spec import FinetuneSpec

# Numbers of parameters in the published weights of each model (tied matrices once).
PUBLISHED = [
    ("Qwen/Qwen1.5-0.5B", 463_987_712),
    ("Qwen/Qwen1.5-1.8B", 1_836_828_672),
    ("Qwen/Qwen1.5-4B", 3_950_369_280),
    ("Qwen/Qwen1.5-7B", 7_721_324_544),
    ("Qwen/Qwen1.5-14B", 14_167_290_880),
    ("Qwen/Qwen1.5-32B", 32_512_218_112),
    ("Qwen/Qwen1.5-72B", 72_287_920_128),
    ("Qwen/Qwen1.5-110B", 111_209_914_368),
    ("Qwen/Qwen2-0.5B", 494_032_768),
    ("Qwen/Qwen2-1.5B", 1_543_714_304),
    ("Qwen/Qwen2-7B", 7_615_616_512),
    ("Qwen/Qwen2-72B", 72_706_203_648),
    ("Qwen/Qwen2.5-0.5B", 494_032_768),
    ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
    ("Qwen/Qwen2.5-3B", 3_085_938_688),
    ("Qwen/Qwen2.5-7B", 7_615_616_512),
    ("Qwen/Qwen2.5-14B", 14_770_033_664),
    ("Qwen/Qwen2.5-32B", 32_763_876_352),
    ("Qwen/Qwen2.5-72B", 72_706_203_648),
    ("Qwen/Qwen3-0.6B", 596_049_920),
    ("Qwen/Qwen3-1.7B", 1_720_574_976),
    ("Qwen/Qwen3-4B", 4_022_468_096),
    ("Qwen/Qwen3-8B", 8_190_735_360),
    ("Qwen/Qwen3-14B", 14_768_307_200),
    ("Qwen/Qwen3-32B", 32_762_123_264),
]

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}

# Llama-shaped models: keys that differ from Llama 3.1 8B, parameters in the published weights.
LLAMA_SHAPED = [
    ("Llama-3.1-8B", {}, 8_030_261_248),
    (
        "Llama-3.2-1B",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "intermediate_size": 8192,
            "tie_word_embeddings": True,
        },
        1_235_814_400,
    ),
    (
        "Llama-3.2-3B",
        {
            "hidden_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 24,
            "intermediate_size": 8192,
            "tie_word_embeddings": True,
        },
        3_212_749_824,
    ),
    (
        "Llama-3.1-70B",
        {
            "hidden_size": 8192,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "intermediate_size": 28672,
        },
        70_553_706_496,
    ),
    (
        "Llama-2-7B",
        {"num_key_value_heads": None, "intermediate_size": 11008, "vocab_size": 32000},
        6_738_415_616,
    ),
    (
        "Llama-2-13B",
        {
            "hidden_size": 5120,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 40,
            "intermediate_size": 13824,
            "vocab_size": 32000,
        },
        13_015_864_320,
    ),
    ("Mistral-7B-v0.1", {"model_type": "mistral", "vocab_size": 32000}, 7_241_732_096),
]


def wrong(**changes: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        ModelShape.from_config(config(**changes))
    return caught.value


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED)
def test_a_known_model_has_exactly_the_published_number_of_parameters(
    name: str, parameters: int
) -> None:
    assert ModelShape.known(name).parameters == parameters


@pytest.mark.parametrize(("name", "changes", "parameters"), LLAMA_SHAPED)
def test_a_llama_shaped_config_has_exactly_the_published_number_of_parameters(
    name: str, changes: dict[str, Any], parameters: int
) -> None:
    keys = {key: value for key, value in (LLAMA | changes).items() if value is not None}
    assert ModelShape.from_config(keys, name=name).parameters == parameters


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen1.5-7B",
        "Qwen/Qwen1.5-7B-Chat",
        "qwen1.5-7b",
        "Qwen1.5-7B/",
        "/data/models/Qwen1.5-7B",
        "someone/QWEN1.5-7B-chat",
    ],
)
def test_one_model_is_found_under_every_way_to_write_its_name(name: str) -> None:
    shape = ModelShape.known(name)
    assert (shape.hidden, shape.layers, shape.heads, shape.ffn) == (4096, 32, 32, 11008)
    assert shape.name == name


@pytest.mark.parametrize(
    "name",
    ["Qwen/Qwen2.5-Coder-7B", "Qwen/Qwen2.5-Coder-7B-Instruct", "Qwen/Qwen2.5-Math-7B",
     "Qwen/Qwen2.5-7B-Instruct-1M"],
)  # fmt: skip
def test_a_variant_of_the_same_shape_is_known(name: str) -> None:
    assert ModelShape.known(name).parameters == ModelShape.known("Qwen/Qwen2.5-7B").parameters


@pytest.mark.parametrize("suffix", ["-Instruct", "-Base", "-Chat"])
def test_a_tuned_variant_has_the_shape_of_its_base_model(suffix: str) -> None:
    tuned, base = ModelShape.known(f"Qwen/Qwen3-8B{suffix}"), ModelShape.known("Qwen/Qwen3-8B")
    assert tuned.parameters == base.parameters


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen9-7B", "meta-llama/Llama-3.1-8B", "gpt2", "", "/", "Qwen/Qwen1.5-7B-AWQ"]
)
def test_an_unknown_name_is_refused_with_the_way_out(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        ModelShape.known(name)
    assert caught.value.path == "model.name"
    assert "give model.config" in caught.value.message
    assert repr(name) in caught.value.message


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen1.5-MoE-A2.7B",
        "Qwen/Qwen1.5-MoE-A2.7B-Chat",
        "Qwen/Qwen2-57B-A14B-Instruct",
        "Qwen/Qwen3-30B-A3B",
        "Qwen/Qwen3-235B-A22B",
    ],
)
def test_a_mixture_of_experts_is_refused_by_name_with_a_sentence(name: str) -> None:
    with pytest.raises(SpecError, match="mixture-of-experts model; this planner covers dense"):
        ModelShape.known(name)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"model_type": "qwen2_moe"}, "model.config.model_type"),
        ({"model_type": "Qwen3_MoE"}, "model.config.model_type"),
        ({"num_experts": 60}, "model.config.num_experts"),
        ({"num_local_experts": 8}, "model.config.num_local_experts"),
        ({"n_routed_experts": 64}, "model.config.n_routed_experts"),
        ({"moe_intermediate_size": 1408}, "model.config.moe_intermediate_size"),
    ],
)
def test_a_mixture_of_experts_is_refused_by_the_key_that_shows_it(
    changes: dict[str, Any], path: str
) -> None:
    error = wrong(**changes)
    assert error.path == path
    assert "mixture-of-experts" in error.message


@pytest.mark.parametrize("kind", ["bert", "gpt2", "mamba", "t5", "", "qwen"])
def test_another_family_is_refused_with_the_families_that_work(kind: str) -> None:
    error = wrong(model_type=kind)
    assert error.path == "model.config.model_type"
    assert "qwen2, qwen3, llama, mistral" in error.message


@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
    ],
)
def test_a_needed_key_that_is_absent_is_named(key: str) -> None:
    error = wrong(**{key: None})
    assert error.path == f"model.config.{key}"
    assert "found absent" in error.message


@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
        "head_dim",
        "max_position_embeddings",
    ],
)
@pytest.mark.parametrize("value", [0, -1, 1.5, "64", True, [64], {}])
def test_a_size_that_is_no_positive_whole_number_is_named_with_its_value(
    key: str, value: object
) -> None:
    error = wrong(**{key: value})
    assert error.path == f"model.config.{key}"
    assert repr(value) in error.message


def test_key_value_heads_default_to_all_heads() -> None:
    shape = ModelShape.from_config(config(num_key_value_heads=None))
    assert shape.kv_heads == shape.heads == 4


def test_heads_that_key_value_heads_do_not_divide_are_refused() -> None:
    error = wrong(num_attention_heads=8, num_key_value_heads=3)
    assert error.path == "model.config.num_key_value_heads"
    assert "8 attention heads are not divisible by 3" in error.message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 16),
        ({"head_dim": 32}, 32),
        ({"model_type": "qwen3"}, 128),
        ({"model_type": "qwen3", "head_dim": 16}, 16),
        ({"hidden_size": 100, "num_attention_heads": 4, "num_key_value_heads": 4}, 25),
    ],
)
def test_the_head_dimension_is_the_config_s_or_the_family_s_default(
    changes: dict[str, Any], expected: int
) -> None:
    assert ModelShape.from_config(config(**changes)).head_dim == expected


def test_a_head_dimension_that_cannot_be_derived_is_asked_for() -> None:
    error = wrong(hidden_size=66)
    assert error.path == "model.config.head_dim"
    assert "66 is not divisible by 4 heads" in error.message


@pytest.mark.parametrize(
    ("kind", "bias", "norm"),
    [
        ("qwen2", True, False),
        ("qwen3", False, True),
        ("llama", False, False),
        ("mistral", False, False),
    ],
)
def test_each_family_has_its_own_biases_and_norms(kind: str, *, bias: bool, norm: bool) -> None:
    shape = ModelShape.from_config(config(model_type=kind))
    assert (shape.qkv_bias, shape.qk_norm) == (bias, norm)


def test_an_attention_bias_that_the_config_asks_for_is_counted() -> None:
    plain = ModelShape.from_config(config(model_type="llama"))
    biased = ModelShape.from_config(config(model_type="llama", attention_bias=True))
    assert biased.layer_parameters - plain.layer_parameters == (4 + 2 * 2) * 16


def test_a_block_s_parameters_agree_with_a_count_by_hand() -> None:
    shape = ModelShape.from_config(config())
    projections = 64 * 64 + 2 * 64 * 32 + 64 * 64  # query, key and value, output
    feed_forward = 3 * 64 * 128
    bias, norms = 64 + 2 * 32, 2 * 64
    assert shape.layer_matrix_parameters == projections + feed_forward
    assert shape.layer_parameters == projections + feed_forward + bias + norms


def test_qwen3_adds_a_norm_of_one_head_for_queries_and_keys() -> None:
    shape = ModelShape.from_config(config(model_type="qwen3", head_dim=16))
    assert shape.layer_parameters - shape.layer_matrix_parameters == 2 * 64 + 2 * 16


def test_tied_embeddings_are_counted_once() -> None:
    untied = ModelShape.from_config(config())
    tied = ModelShape.from_config(config(tie_word_embeddings=True))
    assert untied.parameters - tied.parameters == 256 * 64 == tied.embedding_parameters


@pytest.mark.parametrize("value", ["false", "true", 0, 1, []])
def test_tied_embeddings_are_true_or_false_and_nothing_else(value: object) -> None:
    error = wrong(tie_word_embeddings=value)
    assert error.path == "model.config.tie_word_embeddings"
    assert error.message == f"expected true or false, found {value!r}"


def test_a_whole_model_is_its_blocks_its_vocabulary_and_a_last_norm() -> None:
    shape = ModelShape.from_config(config())
    assert shape.parameters == 4 * shape.layer_parameters + 2 * 256 * 64 + 64


def test_queries_are_wider_than_the_model_where_the_config_says_so() -> None:
    shape = ModelShape.known("Qwen/Qwen3-32B")
    assert (shape.hidden, shape.attention_width, shape.kv_width) == (5120, 64 * 128, 8 * 128)


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen1.5-7B", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-8B", "Qwen/Qwen2.5-72B"]
)
@pytest.mark.parametrize("length", [512, 4096, 32768])
def test_training_flops_are_six_a_multiplying_parameter_and_causal_attention(
    name: str, length: int
) -> None:
    shape = ModelShape.known(name)
    output = shape.vocab * shape.hidden
    attention = 12 * shape.layers * shape.heads * shape.head_dim * length / 2
    expected = 6 * (shape.layers * shape.layer_matrix_parameters + output) + attention
    assert shape.flops_per_token(length) == pytest.approx(expected, rel=1e-12)


def test_a_tied_model_multiplies_by_its_vocabulary_all_the_same() -> None:
    tied = ModelShape.from_config(config(tie_word_embeddings=True))
    untied = ModelShape.from_config(config())
    assert tied.flops_per_token(128) == untied.flops_per_token(128)


def spec_with(model: dict[str, Any]) -> FinetuneSpec:
    return request(model=model)


def test_the_config_of_a_request_wins_over_its_name() -> None:
    spec = spec_with({"name": "Qwen/Qwen1.5-7B", "config": config()})
    shape = ModelShape.for_spec(spec.model)
    assert (shape.name, shape.hidden) == ("Qwen/Qwen1.5-7B", 64)


def test_a_path_whose_last_part_is_a_known_model_needs_no_config() -> None:
    shape = ModelShape.for_spec(spec_with({"path": "/data/Qwen2.5-7B-Instruct"}).model)
    assert shape.parameters == 7_615_616_512


def test_a_path_that_says_nothing_is_asked_for_a_config() -> None:
    with pytest.raises(SpecError, match="give the keys of its") as caught:
        ModelShape.for_spec(spec_with({"path": "/data/model"}).model)
    assert caught.value.path == "spec.model.config"


def test_a_wrong_name_in_a_request_carries_the_request_s_path() -> None:
    with pytest.raises(SpecError) as caught:
        ModelShape.for_spec(spec_with({"name": "Qwen/Qwen0-1B"}).model)
    assert caught.value.path == "spec.model.name"


def test_a_wrong_key_in_a_request_carries_the_request_s_path() -> None:
    model = {"path": "/data/model", "config": config(vocab_size=0)}
    with pytest.raises(SpecError) as caught:
        ModelShape.for_spec(spec_with(model).model)
    assert caught.value.path == "spec.model.config.vocab_size"
