"""One stage or several: cut, named, checked, and the same model as transformers'."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from parity import tiny
from qwenft_trainer.attention import dense_mask
from qwenft_trainer.failure import ModelInvalid
from qwenft_trainer.model import (
    Slice,
    Stage,
    check_config,
    checked_config,
    read_config,
    slices,
)

pytestmark = pytest.mark.torch


def spans(layers: int, stages: int) -> list[tuple[int, int]]:
    return [(part.layers.start, part.layers.stop) for part in slices(layers, stages)]


@pytest.mark.parametrize(
    ("layers", "stages", "expected"),
    [
        (4, 1, [(0, 4)]),
        (4, 2, [(0, 2), (2, 4)]),
        (5, 2, [(0, 3), (3, 5)]),
        (6, 4, [(0, 1), (1, 3), (3, 5), (5, 6)]),
        (28, 8, [(0, 3), (3, 6), (6, 10), (10, 14), (14, 18), (18, 22), (22, 25), (25, 28)]),
    ],
)
def test_layers_are_cut_evenly_with_the_rest_in_the_middle(
    layers: int, stages: int, expected: list[tuple[int, int]]
) -> None:
    assert spans(layers, stages) == expected


@pytest.mark.parametrize("layers", range(1, 33))
@pytest.mark.parametrize("stages", [1, 2, 3, 4, 8])
def test_every_layer_lies_on_one_stage(layers: int, stages: int) -> None:
    found = spans(layers, stages)
    assert [i for begin, end in found for i in range(begin, end)] == list(range(layers))
    depths = [end - begin for begin, end in found]
    assert max(depths) - min(depths) <= 1


def test_only_the_ends_hold_embedding_and_head() -> None:
    parts = slices(6, 3)
    assert [part.first for part in parts] == [True, False, False]
    assert [part.last for part in parts] == [False, False, True]


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_the_stages_have_together_the_names_and_shapes_of_transformers(
    family: str, stages: int
) -> None:
    config = checked_config(tiny.make_config(family))
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(config)
        ours = [Stage(config, part) for part in slices(config.num_hidden_layers, stages)]
    expected = {name: value.shape for name, value in theirs.named_parameters()}
    found = {name: value.shape for stage in ours for name, value in stage.named_parameters()}
    assert found == expected


def test_a_tied_head_is_the_embedding() -> None:
    config = checked_config(tiny.make_config(tie_word_embeddings=True))
    stage = Stage(config, slices(4, 1)[0])
    assert stage.lm_head.weight is stage.model.embed_tokens.weight
    assert "lm_head.weight" not in dict(stage.named_parameters())


def both(family: str, directory: Path) -> tuple[Stage, torch.nn.Module]:
    tiny.write_model(directory, tiny.make_config(family, num_key_value_heads=2))
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ours = Stage(read_config(directory), slices(4, 1)[0]).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_the_logits_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    ours, theirs = both(family, tmp_path)
    tokens = torch.randint(0, 512, (2, 20), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(20).expand(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens, positions), theirs(tokens).logits)


def test_the_logits_under_padding_at_the_begin_are_those_of_transformers(tmp_path: Path) -> None:
    ours, theirs = both("qwen2", tmp_path)
    tokens = torch.randint(0, 512, (1, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0] * 3 + [1] * 9])
    with torch.no_grad():
        found = ours(tokens, torch.arange(12)[None], segments=mask)
        expected = theirs(tokens, attention_mask=mask, position_ids=torch.arange(12)[None]).logits
    torch.testing.assert_close(found[:, 3:], expected[:, 3:])


def test_samples_in_one_row_do_not_see_each_other(tmp_path: Path) -> None:
    ours, _ = both("qwen2", tmp_path)
    tokens = torch.randint(0, 512, (1, 10), generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[1] * 4 + [2] * 6])
    positions = torch.cat((torch.arange(4), torch.arange(6)))[None]
    with torch.no_grad():
        together = ours(tokens, positions, segments=segments)
        alone = ours(tokens[:, 4:], positions[:, 4:])
    torch.testing.assert_close(together[:, 4:], alone)


def test_the_mask_is_causal_and_stays_in_its_segment() -> None:
    mask = dense_mask(torch.tensor([[1, 1, 2, 2]]))
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]


def test_a_middle_stage_maps_hidden_states_to_hidden_states() -> None:
    config = checked_config(tiny.make_config())
    stage = Stage(config, Slice(layers=range(1, 2), first=False, last=False))
    states = torch.randn(2, 5, config.hidden_size)
    assert stage(states, torch.arange(5).expand(2, 5)).shape == states.shape


def test_rotary_tables_survive_the_meta_device() -> None:
    config = checked_config(tiny.make_config())
    real = Stage(config, slices(4, 1)[0])
    with torch.device("meta"):
        stage = Stage(config, slices(4, 1)[0])
    stage.to_empty(device="cpu")
    stage.reset_rotary(torch.device("cpu"), config)
    assert torch.equal(stage.model.rotary_emb.inv_freq, real.model.rotary_emb.inv_freq)


def test_another_family_is_refused_by_name() -> None:
    with pytest.raises(ModelInvalid, match="'gpt2' is none of llama, qwen2, qwen3"):
        checked_config(AutoConfig.for_model("gpt2"))


def test_a_sliding_window_is_refused() -> None:
    config = tiny.make_config(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(ModelInvalid, match="sliding"):
        checked_config(config)


def test_preparing_a_config_leaves_the_original_alone() -> None:
    config = tiny.make_config()
    assert checked_config(config) is not config
    assert config.use_cache is not False


@pytest.mark.parametrize("content", [None, "", "{", '{"model_type": "none-such"}', "[]"])
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelInvalid, match=r"config\.json"):
        read_config(tmp_path)


def test_a_config_that_was_planned_for_passes() -> None:
    check_config(tiny.make_config(), {"hidden_size": 64, "model_type": "qwen2"})


def test_a_head_size_that_the_config_leaves_out_follows_from_the_others() -> None:
    config = AutoConfig.for_model("qwen2", hidden_size=64, num_attention_heads=4)
    check_config(config, {"head_dim": 16})
    with pytest.raises(ModelInvalid, match="head_dim 32"):
        check_config(config, {"head_dim": 32})


def test_keys_that_no_plan_rests_on_are_not_compared() -> None:
    check_config(tiny.make_config(), {"rope_theta": 1.0, "transformers_version": "4.37.0"})


def test_another_config_than_planned_is_named_with_both_values() -> None:
    with pytest.raises(ModelInvalid, match=r"num_hidden_layers 32.*has 4"):
        check_config(tiny.make_config(), {"hidden_size": 64, "num_hidden_layers": 32})
