"""LoRA under every plan is peft on one process: losses, adapters, files, checkpoints."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from transformers import AutoModelForCausalLM

from parity import gang, lora, tiny
from parity.gang import Case
from parity.tiny import Point
from qwenft_plan.spec import Lora

pytestmark = [
    pytest.mark.torch,
    # peft 0.21 asks transformers 5.23 by a name that is going away.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

LOSS, NORM = 1e-5, 1e-4
BF16_LOSS, BF16_NORM = 5e-3, 5e-2
ADAPTERS: Mapping[str, Mapping[str, Any]] = {
    "all": {"rank": 4, "alpha": 8.0},
    "few": {"rank": 2, "alpha": 3.0, "target_modules": ["q_proj", "v_proj"]},
    "dropping": {"rank": 4, "dropout": 0.5, "target_modules": ["q_proj"]},
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "qwen2": {"num_hidden_layers": 2, "num_key_value_heads": 2},
    "qwen2-deep": {"num_hidden_layers": 4},
    "qwen2-tied": {"num_hidden_layers": 2, "tie_word_embeddings": True},
    "qwen3": {"num_hidden_layers": 2, "num_key_value_heads": 2},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A plan, the model and the adapters that it is tried on."""

    ranks: int
    plan: Mapping[str, Any]
    model: str = "qwen2"
    adapters: str = "all"
    compiler: str | None = None
    wide: bool = False


PIPELINE = {"pp": 2, "accumulation": 4}
SETTINGS: Mapping[str, Setting] = {
    "shard 2": Setting(ranks=2, plan={"dp_shard": 2, "accumulation": 2}),
    "pp 2": Setting(ranks=2, plan={"pp": 2, "accumulation": 2}),
    "tp 2": Setting(ranks=2, plan={"tp": 2, "activation_checkpointing": "selective"}),
    "plain": Setting(ranks=1, plan={"accumulation": 2}, model="qwen3", wide=True),
    "q and v only": Setting(ranks=1, plan={}, adapters="few", wide=True),
    "tied": Setting(ranks=1, plan={}, model="qwen2-tied", wide=True),
    "recompute": Setting(ranks=1, plan={"activation_checkpointing": "full"}, wide=True),
    "compiled": Setting(ranks=1, plan={}, compiler="inductor", wide=True),
    "shard 2 compiled": Setting(ranks=2, plan={"dp_shard": 2}, compiler="aot_eager", wide=True),
    "tp 2 compiled": Setting(ranks=2, plan={"tp": 2}, compiler="aot_eager", wide=True),
    "tp 2 inductor": Setting(ranks=2, plan={"tp": 2}, compiler="inductor", wide=True),
    "pp 2 inductor": Setting(ranks=2, plan=PIPELINE, compiler="inductor", wide=True),
    "pp 2 compiled": Setting(ranks=2, plan=PIPELINE, compiler="aot_eager", wide=True),
    "bf16": Setting(ranks=1, plan={"precision": "bf16"}, wide=True),
    "replicate 2": Setting(ranks=2, plan={"dp_replicate": 2, "accumulation": 2}, wide=True),
    "bf16 shard 2": Setting(ranks=2, plan={"dp_shard": 2, "precision": "bf16"}, wide=True),
    "tp 2 qwen3": Setting(ranks=2, plan={"tp": 2}, model="qwen3", adapters="few", wide=True),
    "interleaved": Setting(
        ranks=2,
        plan=PIPELINE | {"pipeline_schedule": "Interleaved1F1B"},
        model="qwen2-deep",
        wide=True,
    ),
    "zero bubble": Setting(
        ranks=2,
        plan=PIPELINE | {"pipeline_schedule": "ZBVZeroBubble"},
        model="qwen2-deep",
        wide=True,
    ),
    "hybrid": Setting(ranks=4, plan={"dp_shard": 2, "dp_replicate": 2}, wide=True),
    "shard 2 × tp 2": Setting(ranks=4, plan={"dp_shard": 2, "tp": 2}, wide=True),
    "shard 2 × pp 2": Setting(ranks=4, plan={"dp_shard": 2, "pp": 2, "accumulation": 2}, wide=True),
    "tp 2 × pp 2": Setting(ranks=4, plan={"tp": 2, "pp": 2, "accumulation": 2}, wide=True),
    "tp 4 over 2 key heads": Setting(ranks=4, plan={"tp": 4}, wide=True),
}
NARROW = [name for name, setting in SETTINGS.items() if not setting.wide]
WIDE = [name for name, setting in SETTINGS.items() if setting.wide]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: tiny.write_model(folder / name, tiny.make_config(name.split("-")[0], **changes))
        for name, changes in MODELS.items()
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What peft alone came to."""

    points: Sequence[Point]
    model: PeftModel


Find = Callable[[Setting], Reference]


@pytest.fixture(scope="module")
def reference(models: Mapping[str, Path]) -> Find:
    done: dict[str, Reference] = {}

    def find(setting: Setting) -> Reference:
        key = f"{setting.model} {setting.adapters}"
        if key not in done:
            points, model = lora.reference(
                models[setting.model], Lora(**ADAPTERS[setting.adapters])
            )
            done[key] = Reference(points=points, model=model)
        return done[key]

    return find


def case(name: str, models: Mapping[str, Path], directory: Path) -> Case:
    setting = SETTINGS[name]
    options = {
        "lora": ADAPTERS[setting.adapters],
        "directory": directory / name,
        "dtype": "float32",
        "compile_backend": setting.compiler,
    }
    model = models[setting.model]
    return Case(name=name, model=model, plan=setting.plan, kind="export", options=options)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def narrow(models: Mapping[str, Path], exports: Path) -> Mapping[str, Any]:
    """Train and export under each narrow plan; one checkpoint goes from plan to plan."""
    cases = [case(name, models, exports) for name in NARROW]
    moved = {"lora": ADAPTERS["all"], "directory": exports / "checkpoints"}
    cases += [
        Case(
            name="saved",
            model=models["qwen2"],
            plan=SETTINGS["shard 2"].plan,
            kind="save_and_go_on",
            options=moved,
        ),
        Case(
            name="resumed",
            model=models["qwen2"],
            plan=SETTINGS["pp 2"].plan,
            kind="resume",
            options=moved | {"attempt": 2},
        ),
    ]
    return gang.run(2, cases)


@pytest.fixture(scope="module")
def wide(models: Mapping[str, Path], exports: Path) -> Mapping[str, Any]:
    done: dict[str, Any] = {}
    for ranks in (1, 2, 4):
        names = [name for name in WIDE if SETTINGS[name].ranks == ranks]
        done |= gang.run(ranks, [case(name, models, exports) for name in names])
    return done


def same_as_peft(name: str, found: Any, expected: Sequence[Point]) -> None:
    points = gang.points(found)
    assert len(points) == len(expected) == tiny.STEPS
    difference = gang.worst(points, expected)
    print(f"{name}: loss {difference.loss:.1e}, gradient norm {difference.norm:.1e}")
    low = SETTINGS[name].plan.get("precision") == "bf16"
    assert difference.loss <= (BF16_LOSS if low else LOSS)
    assert difference.norm <= (BF16_NORM if low else NORM)


@pytest.mark.parametrize("name", NARROW)
def test_a_plan_trains_adapters_like_peft(
    name: str, narrow: Mapping[str, Any], reference: Find
) -> None:
    same_as_peft(name, narrow.get(name), reference(SETTINGS[name]).points)


@pytest.mark.full
@pytest.mark.parametrize("name", WIDE)
def test_every_other_plan_does_so_too(
    name: str, wide: Mapping[str, Any], reference: Find, exports: Path, models: Mapping[str, Path]
) -> None:
    same_as_peft(name, wide.get(name), reference(SETTINGS[name]).points)
    low = SETTINGS[name].plan.get("precision") == "bf16"
    check_files(name, exports, models, reference, within=1e-2 if low else 3e-3)


def logits(model: Any) -> Tensor:
    model.eval()
    with torch.no_grad():
        found: Tensor = model(tiny.make_batches(1)[0]["input_ids"][:2], use_cache=False).logits
    return found


def check_files(
    name: str, exports: Path, models: Mapping[str, Path], reference: Find, *, within: float
) -> None:
    """Load both exports as a user does; both must answer as peft's own model."""
    setting = SETTINGS[name]
    expected = logits(reference(setting).model)
    base = AutoModelForCausalLM.from_pretrained(models[setting.model], dtype=torch.float32)
    assert (logits(base) - expected).abs().max() > 3 * within, "the adapters do nothing"
    adapted = PeftModel.from_pretrained(base, exports / f"{name}-adapter")
    torch.testing.assert_close(logits(adapted), expected, rtol=0, atol=within)
    merged, info = AutoModelForCausalLM.from_pretrained(
        exports / name, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=within)


@pytest.mark.parametrize("name", NARROW)
def test_adapters_load_with_peft_and_merged_ones_without(
    name: str,
    narrow: Mapping[str, Any],
    reference: Find,
    exports: Path,
    models: Mapping[str, Path],
) -> None:
    assert narrow
    check_files(name, exports, models, reference, within=3e-3)


def test_the_files_are_what_peft_itself_writes(
    narrow: Mapping[str, Any], reference: Find, exports: Path, tmp_path: Path
) -> None:
    assert narrow
    reference(SETTINGS["shard 2"]).model.save_pretrained(tmp_path)
    ours = exports / "shard 2-adapter"
    expected = load_file(tmp_path / "adapter_model.safetensors")
    found = load_file(ours / "adapter_model.safetensors")
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    written, peft_s = (
        json.loads((folder / "adapter_config.json").read_text()) for folder in (ours, tmp_path)
    )
    for key in ("r", "lora_alpha", "lora_dropout", "peft_type", "task_type", "bias"):
        assert written[key] == peft_s[key], key
    assert set(written["target_modules"]) == set(peft_s["target_modules"])
    assert written["base_model_name_or_path"] == peft_s["base_model_name_or_path"]


def test_adapters_saved_under_one_plan_go_on_under_another(
    narrow: Mapping[str, Any], reference: Find, exports: Path
) -> None:
    expected = reference(SETTINGS["shard 2"]).points
    same_as_peft("shard 2", narrow["saved"], expected)
    assert narrow["resumed"]["step"] == 4
    difference = gang.worst(gang.points(narrow["resumed"]["points"]), expected[4:])
    assert difference.loss <= LOSS
    (saved,) = (exports / "checkpoints").glob("step-*")
    held = FileSystemReader(saved).read_metadata().state_dict_metadata
    # A and B of seven matrices in two blocks, each with two moments; and no base weight.
    assert len(held) == 3 * 2 * 7 * 2
    assert all(".lora_" in name for name in held)


@pytest.mark.full
def test_dropout_drops_alike_on_tensor_parallel_ranks(models: Mapping[str, Path]) -> None:
    def run(ranks: int, adapters: Mapping[str, Any], **plan: Any) -> list[Point]:
        options = {"lora": adapters, "seed": 5}
        one = Case(name="x", model=models["qwen2"], plan=plan, options=options)
        return gang.points(gang.run(ranks, [one])["x"])

    without = run(1, ADAPTERS["dropping"] | {"dropout": 0.0})
    alone, split = run(1, ADAPTERS["dropping"]), run(2, ADAPTERS["dropping"], tp=2)
    assert gang.worst(alone, without).norm > 1e-2
    difference = gang.worst(split, alone)
    assert difference.loss <= LOSS
    assert difference.norm <= NORM
