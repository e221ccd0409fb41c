"""What cannot work under a plan ends in an error that names the script's line and the way out.

One process with the plan of one rank: the same objects that a run of many ranks uses.
"""

import copy
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import transformers
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from qwenft_plan.plan import Plan
from qwenft_trainer import shims
from qwenft_trainer.failure import ModelInvalid, PlanInvalid
from qwenft_trainer.user_model import ParallelModel

pytestmark = pytest.mark.torch

PLAN = Plan(
    world_size=1, nodes=1, processes_per_node=1, pp=1, dp_replicate=1, dp_shard=1, tp=1,
    micro_batch_size=2, gradient_accumulation_steps=2, global_batch_size=4, sequence_length=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny model."""
    path = tmp_path_factory.mktemp("model")
    config = Qwen2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture
def alone() -> Iterator[None]:
    """Make this process a group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def surroundings(alone: None) -> Iterator[None]:
    """Give the test what a script has under a plan."""
    del alone
    before = sys.stdout
    with shims.installed(PLAN):
        yield
    assert sys.stdout is before


@pytest.fixture
def model(surroundings: None, directory: Path) -> ParallelModel:
    """Load the model after the line."""
    del surroundings
    torch.moreh.option.enable_advanced_parallelization()
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    assert isinstance(loaded, ParallelModel)
    return loaded.train()


def batch() -> dict[str, torch.Tensor]:
    ids = torch.arange(1, 33).reshape(4, 8)
    return {"input_ids": ids, "labels": ids.clone()}


def refused(match: str) -> AbstractContextManager[object]:
    return pytest.raises(PlanInvalid, match=rf"test_one_line_refusals\.py:\d+: .*{match}")


def test_a_model_loaded_before_the_line(surroundings: None, directory: Path) -> None:
    del surroundings
    with refused("before enable_advanced_parallelization"):
        AutoModelForCausalLM.from_pretrained(directory)


def test_a_model_class_loaded_before_the_line(surroundings: None, directory: Path) -> None:
    del surroundings
    with refused("before enable_advanced_parallelization"):
        Qwen2ForCausalLM.from_pretrained(directory)


@pytest.mark.parametrize("option", ["device_map", "quantization_config", "load_in_8bit", "tp_plan"])
def test_arguments_of_from_pretrained(model: ParallelModel, option: str, directory: Path) -> None:
    del model
    with refused(option):
        AutoModelForCausalLM.from_pretrained(directory, **{option: "auto"})


def test_a_model_from_a_config(model: ParallelModel) -> None:
    with refused("from_config"):
        AutoModelForCausalLM.from_config(model.config)


def test_a_missing_directory_is_no_fault_of_the_plan(model: ParallelModel, tmp_path: Path) -> None:
    del model
    with pytest.raises(ModelInvalid, match="no such directory"):
        AutoModelForCausalLM.from_pretrained(str(tmp_path / "none"))


def test_logits_of_a_training_call(model: ParallelModel) -> None:
    output = model(**batch())
    with refused("no logits"):
        output.logits.sum()


def test_a_training_call_without_labels(model: ParallelModel) -> None:
    with refused("without labels"):
        model(batch()["input_ids"])


def test_labels_that_train_nothing(model: ParallelModel) -> None:
    ids = batch()["input_ids"]
    with refused("all of them are -100"):
        model(ids, labels=torch.full_like(ids, -100))


@pytest.mark.parametrize("name", ["past_key_values", "inputs_embeds", "output_hidden_states"])
def test_arguments_of_forward(model: ParallelModel, name: str) -> None:
    with refused(name):
        model(**batch(), **{name: True})


def test_embeddings_in_place_of_tokens(model: ParallelModel) -> None:
    with refused("input_ids are missing"):
        model(inputs_embeds=torch.zeros(1, 2, 16))


def test_a_second_backward(model: ParallelModel) -> None:
    loss = model(**batch()).loss
    loss.backward(retain_graph=True)
    with refused("a second time"):
        loss.backward()


def test_other_precisions(model: ParallelModel) -> None:
    for change in (model.half, model.bfloat16, lambda: model.to(torch.float16)):
        with refused("the plan has the precision"):
            change()


def test_harmless_moves_return_the_model(model: ParallelModel) -> None:
    assert model.cuda() is model.to("cuda") is model.float() is model.to(torch.float32) is model


def test_things_that_need_the_whole_model_in_one_place(model: ParallelModel) -> None:
    with refused("resized"):
        model.resize_token_embeddings(128)
    with refused("spread over the ranks"):
        model.get_input_embeddings()
    with refused("cannot be copied"):
        copy.deepcopy(model)
    with refused("load_state_dict"):
        model.load_state_dict({})
    with pytest.raises(AttributeError, match="a part of the layers only"):
        _ = model.lm_head


def test_a_derivative_by_autograd_grad(model: ParallelModel) -> None:
    with refused(r"loss\.backward\(\)"):
        torch.autograd.grad(model(**batch()).loss, list(model.parameters()))


def test_wrappers(model: ParallelModel) -> None:
    with refused("leave the wrapper out"):
        torch.nn.parallel.DistributedDataParallel(model)
    with refused("leave the wrapper out"):
        torch.nn.DataParallel(model)
    assert torch.compile(model) is model


def test_optimizers_of_whole_matrices(model: ParallelModel) -> None:
    for kind in (torch.optim.Adafactor, transformers.Adafactor):
        with refused("whole matrices"):
            kind(model.parameters())


def test_fp16_loss_scaling(model: ParallelModel) -> None:
    scaler = torch.amp.GradScaler("cpu")
    with refused("GradScaler"):
        scaler.scale(model(**batch()).loss)


def test_clipping_a_part_or_by_another_norm(model: ParallelModel) -> None:
    model(**batch()).loss.backward()
    with refused("a part of the model's parameters"):
        torch.nn.utils.clip_grad_norm_(list(model.parameters())[:2], 1.0)
    with refused("norm_type"):
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, norm_type=1.0)


def test_saving_the_model_object(model: ParallelModel, tmp_path: Path) -> None:
    with refused("state_dict"):
        torch.save(model, tmp_path / "model.pt")


def test_a_script_that_never_used_its_ranks(alone: None) -> None:
    del alone
    session = shims.option.Session(PLAN)
    session.check_end()  # one rank may train alone
    lonely = shims.option.Session(
        Plan.from_mapping(
            {**PLAN.to_mapping(), "digest": None, "world_size": 2, "processes_per_node": 2, "tp": 2}
        )
    )
    with pytest.raises(PlanInvalid, match="each trained alone"):
        lonely.check_end()


def test_without_a_plan_the_line_does_nothing(directory: Path) -> None:
    with shims.installed(None):
        torch.moreh.option.enable_advanced_parallelization()
        loaded = AutoModelForCausalLM.from_pretrained(directory)
        assert isinstance(loaded, Qwen2ForCausalLM)
        assert not dist.is_initialized()
        optimizer = transformers.AdamW(loaded.parameters())
        assert (optimizer.defaults["weight_decay"], optimizer.defaults["eps"]) == (0.0, 1e-6)
        assert torch.zeros(2).cuda().to("cuda:0").device.type == "cpu"
        assert torch.arange(3, device="cuda").device.type == "cpu"
    assert not hasattr(transformers, "AdamW")
