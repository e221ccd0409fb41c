"""The table of known models agrees with the published configurations, traps included."""

from __future__ import annotations

import re

import pytest

from qwenft_plan.families import KNOWN, MIXTURES

# hidden, layers, heads, key/value heads, feed-forward, vocabulary, tied: as their config.json says.
CONFIGS = [
    ("qwen1.5-0.5b", 1024, 24, 16, 16, 2816, 151936, True),
    ("qwen1.5-1.8b", 2048, 24, 16, 16, 5504, 151936, False),
    ("qwen1.5-4b", 2560, 40, 20, 20, 6912, 151936, False),
    ("qwen1.5-7b", 4096, 32, 32, 32, 11008, 151936, False),
    ("qwen1.5-14b", 5120, 40, 40, 40, 13696, 152064, False),
    ("qwen1.5-32b", 5120, 64, 40, 8, 27392, 152064, False),
    ("qwen1.5-72b", 8192, 80, 64, 64, 24576, 152064, False),
    ("qwen1.5-110b", 8192, 80, 64, 8, 49152, 152064, False),
    ("qwen2-0.5b", 896, 24, 14, 2, 4864, 151936, True),
    ("qwen2-1.5b", 1536, 28, 12, 2, 8960, 151936, True),
    ("qwen2-7b", 3584, 28, 28, 4, 18944, 152064, False),
    ("qwen2-72b", 8192, 80, 64, 8, 29568, 152064, False),
    ("qwen2.5-3b", 2048, 36, 16, 2, 11008, 151936, True),
    ("qwen2.5-14b", 5120, 48, 40, 8, 13824, 152064, False),
    ("qwen2.5-32b", 5120, 64, 40, 8, 27648, 152064, False),
    ("qwen3-0.6b", 1024, 28, 16, 8, 3072, 151936, True),
    ("qwen3-1.7b", 2048, 28, 16, 8, 6144, 151936, True),
    ("qwen3-4b", 2560, 36, 32, 8, 9728, 151936, True),
    ("qwen3-8b", 4096, 36, 32, 8, 12288, 151936, False),
    ("qwen3-14b", 5120, 40, 40, 8, 17408, 151936, False),
    ("qwen3-32b", 5120, 64, 64, 8, 25600, 151936, False),
]


@pytest.mark.parametrize(
    ("name", "hidden", "layers", "heads", "kv_heads", "ffn", "vocab", "tied"), CONFIGS
)
def test_a_row_repeats_the_published_configuration(
    name: str,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    vocab: int,
    tied: bool,  # noqa: FBT001 - a table's column
) -> None:
    shape = KNOWN[name]
    assert (shape["hidden"], shape["layers"], shape["heads"]) == (hidden, layers, heads)
    assert (shape["kv_heads"], shape["ffn"], shape["vocab"]) == (kv_heads, ffn, vocab)
    assert shape["tied"] is tied


@pytest.mark.parametrize("size", ["0.5b", "1.5b", "7b", "72b"])
def test_qwen2_5_kept_the_shapes_of_qwen2(size: str) -> None:
    assert KNOWN[f"qwen2.5-{size}"] == KNOWN[f"qwen2-{size}"]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_heads_divide_evenly_among_key_value_heads(name: str) -> None:
    assert KNOWN[name]["heads"] % KNOWN[name]["kv_heads"] == 0


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_vocabulary_is_one_of_the_two_that_qwen_has(name: str) -> None:
    assert KNOWN[name]["vocab"] in {151936, 152064}


@pytest.mark.parametrize("name", sorted(name for name in KNOWN if name.startswith("qwen3")))
def test_qwen3_has_heads_of_128_and_norms_on_them_instead_of_biases(name: str) -> None:
    shape = KNOWN[name]
    assert (shape["head_dim"], shape["qk_norm"], shape["qkv_bias"]) == (128, True, False)


@pytest.mark.parametrize("name", sorted(name for name in KNOWN if not name.startswith("qwen3")))
def test_before_qwen3_heads_fill_the_hidden_size_and_have_biases(name: str) -> None:
    shape = KNOWN[name]
    assert shape["heads"] * shape["head_dim"] == shape["hidden"]
    assert (shape["qk_norm"], shape["qkv_bias"]) == (False, True)


@pytest.mark.parametrize("name", sorted(name for name in KNOWN if name.startswith("qwen1.5")))
def test_qwen1_5_groups_its_key_value_heads_in_32b_and_110b_only(name: str) -> None:
    grouped = KNOWN[name]["heads"] != KNOWN[name]["kv_heads"]
    assert grouped == (name in {"qwen1.5-32b", "qwen1.5-110b"})


def test_some_qwen3_models_have_queries_wider_than_their_hidden_size() -> None:
    wider = {
        name
        for name, shape in KNOWN.items()
        if shape["heads"] * shape["head_dim"] != shape["hidden"]
    }
    assert wider == {"qwen3-0.6b", "qwen3-4b", "qwen3-32b"}


def test_only_models_of_at_most_four_billion_parameters_tie_their_embeddings() -> None:
    tied = {name for name, shape in KNOWN.items() if shape["tied"]}
    sizes = [float(found[1]) for name in tied if (found := re.search(r"-([\d.]+)b$", name))]
    assert len(sizes) == len(tied)
    assert max(sizes) == 4.0


def test_no_mixture_of_experts_stands_in_the_table_of_dense_models() -> None:
    assert not MIXTURES & set(KNOWN)


@pytest.mark.parametrize("name", [*sorted(KNOWN), *sorted(MIXTURES)])
def test_every_key_is_the_lower_case_last_part_of_a_hub_name(name: str) -> None:
    assert re.fullmatch(r"qwen[\d.]+-[a-z0-9.-]+", name)
