"""Frameworks are recognised by the words people print, and each is one row of sane constants."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest

from accuracy.constants import fitted_by
from accuracy.rows import load
from gpu.runs import TRUTH as GPU_RUNS
from planning import layout, work
from qwenft_plan.activations import whole_block
from qwenft_plan.memory import peak_memory
from qwenft_plan.model import ModelShape
from qwenft_plan.runtimes import CONSTANTS, OWN, PLAIN, RUNTIMES, Runtime, find_runtime

TRUTH = GPU_RUNS.parent
TEXTS = [
    ("qwenft", "qwenft"),
    ("", "qwenft"),
    ("something new", "pytorch"),
    ("our own PyTorch loop", "pytorch"),
    ("Megatron-LM", "megatron"),
    ("Megatron-Core", "megatron"),
    ("mcore v0.9", "megatron"),
    ("nanotron", "megatron"),
    ("Primus(Megatron)", "megatron"),
    ("Megatron-DeepSpeed", "megatron-early"),
    ("megatron_deepspeed", "megatron-early"),
    ("NeMo 24.07", "nemo"),
    ("NeMo(Megatron-Core)", "nemo"),
    ("InternEvo", "internevo"),
    ("torchtitan(FSDP2)", "torchtitan"),
    ("FSDP2", "torchtitan"),
    ("fms-fsdp", "torchtitan"),
    ("torchtune", "torchtune"),
    ("torchtune(FSDP2)", "torchtune"),
    ("Composer(FSDP1)", "composer"),
    ("llm-foundry", "composer"),
    ("MosaicML", "composer"),
    ("FSDP1", "fsdp"),
    ("PyTorch Lightning FSDP", "fsdp"),
    ("accelerate", "fsdp"),
    ("ms-swift", "ms-swift"),
    ("DeepSpeed ZeRO-3", "deepspeed"),
    ("HF Trainer", "deepspeed"),
    ("Hugging Face transformers", "deepspeed"),
    ("XTuner", "deepspeed"),
    ("Colossal-AI", "deepspeed"),
    ("LLaMA-Factory", "deepspeed"),
    ("axolotl", "deepspeed"),
]


def by_name(name: str) -> Runtime:
    return next(runtime for runtime in RUNTIMES if runtime.name == name)


@pytest.mark.parametrize(("text", "name"), TEXTS)
def test_a_framework_is_recognised_by_its_words(text: str, name: str) -> None:
    assert find_runtime(text).name == name


@pytest.mark.parametrize(("text", "name"), TEXTS)
def test_case_does_not_matter(text: str, name: str) -> None:
    assert find_runtime(text.upper()).name == find_runtime(text.lower()).name == name


@pytest.mark.parametrize("text", ["", "∅", " "])
def test_what_names_no_framework_is_the_product_s_own_trainer(text: str) -> None:
    assert find_runtime(text) is OWN


@pytest.mark.parametrize("text", ["unheard-of", "JAX"])
def test_an_unheard_of_framework_is_not_taken_for_the_product_s_own(text: str) -> None:
    assert find_runtime(text) is PLAIN


def test_every_constant_has_a_unit_and_an_origin() -> None:
    assert set(CONSTANTS) == {field.name for field in fields(Runtime)} - {"name", "words"}
    for name, (unit, origin) in CONSTANTS.items():
        assert len(unit) > 4, name
        assert origin.split(":")[0] in {"counted", "measured", "assumed"}, name


def test_every_fitted_constant_is_one_of_a_runtime_and_its_sources_are_tracked() -> None:
    tracked = {row.source for row in load()}
    fitted = {
        (runtime.name, field): fitted_by(runtime.name, field)
        for runtime in RUNTIMES
        for field in CONSTANTS
        if fitted_by(runtime.name, field)
    }
    assert len(fitted) >= 20
    files = {path.stem for path in TRUTH.glob("*.json")}  # runs of our own
    assert {source for sources in fitted.values() for source in sources} <= tracked | files
    assert fitted["qwenft", "traffic"] == (GPU_RUNS.stem,)
    assert ("ms-swift", "logit") in fitted
    assert ("qwenft", "logit") not in fitted


def test_names_are_unique() -> None:
    assert len({runtime.name for runtime in RUNTIMES}) == len(RUNTIMES)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_the_words_are_a_pattern_in_lower_case_that_never_matches_nothing(
    runtime: Runtime,
) -> None:
    pattern = re.compile(runtime.words)
    assert pattern.search("") is None
    assert re.sub(r"\\.", "", runtime.words).islower()


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_no_constant_is_negative(runtime: Runtime) -> None:
    for field in fields(runtime):
        value = getattr(runtime, field.name)
        assert not isinstance(value, int | float) or value >= 0, field.name


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_shares_are_shares_and_factors_do_not_shrink_memory(runtime: Runtime) -> None:
    assert 0 < runtime.tp_exposed <= 1
    assert 0 <= runtime.shard_exposed <= 1
    assert runtime.allocator >= 1
    assert runtime.overhead >= 0
    assert runtime.zero in {0, 1, 2, 3}
    assert runtime.selective in {"products", "half", "attention"}


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_no_runtime_computes_faster_than_the_best_single_kernel_by_much(runtime: Runtime) -> None:
    assert 0.3 < runtime.matmul < 1.3
    assert 0 < runtime.attention < 3.2  # cuDNN on an H200: 519 TFLOP/s, three times the table


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_mixed_precision_costs_between_sixteen_and_thirty_two_bytes_a_parameter(
    runtime: Runtime,
) -> None:
    weights = 4.0 if runtime.sharded else 2.0
    assert 16 <= weights + runtime.gradient + runtime.optimizer <= 32


def test_the_own_trainer_shards_everything_and_needs_sixteen_bytes() -> None:
    assert (OWN.zero, OWN.sharded) == (3, True)
    assert 4.0 + OWN.gradient + OWN.optimizer == 16


def test_the_own_trainer_saves_what_hugging_face_modules_save() -> None:
    model = ModelShape.known("Qwen/Qwen2.5-7B")
    assert whole_block(work(model, OWN), layout()) == whole_block(work(model), layout())


@pytest.mark.parametrize("name", ["megatron", "nemo", "internevo", "composer"])
def test_fused_kernels_keep_less_than_plain_modules(name: str) -> None:
    model = ModelShape.known("Qwen/Qwen1.5-7B")
    fused = whole_block(work(model, by_name(name)), layout())
    assert fused < whole_block(work(model, OWN), layout())


def test_torchtune_s_chunked_loss_is_the_cheapest() -> None:
    assert by_name("torchtune").logit == min(runtime.logit for runtime in RUNTIMES)


@pytest.mark.parametrize("name", ["megatron", "nemo", "internevo", "megatron-early"])
def test_megatron_s_relatives_never_free_their_gradient_buffer(name: str) -> None:
    assert by_name(name).kept_gradients


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_every_runtime_needs_more_memory_with_a_context_than_without(runtime: Runtime) -> None:
    with_it = peak_memory(work(runtime=runtime), layout(zero=runtime.zero))
    without = peak_memory(work(runtime=replace(runtime, overhead=0.0)), layout(zero=runtime.zero))
    assert with_it.total - without.total == pytest.approx(runtime.overhead)
