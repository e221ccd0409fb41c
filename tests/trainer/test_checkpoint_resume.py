"""A run saved under one plan goes on under another as if nothing had happened."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from parity import gang, tiny
from parity.gang import Case
from parity.saving import SAVED_AFTER
from parity.tiny import Point
from qwenft_trainer.checkpoint_files import digest

pytestmark = pytest.mark.torch

SHARDED_PIPELINE = {"dp_shard": 2, "pp": 2, "accumulation": 2}
TENSOR = {"tp": 2}
SHARDED = {"dp_shard": 2, "accumulation": 2}
INTERLEAVED = {"pp": 2, "accumulation": 2, "pipeline_schedule": "Interleaved1F1B"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny.make_config(num_hidden_layers=4)
    return tiny.write_model(tmp_path_factory.mktemp("model"), config)


@pytest.fixture(scope="module")
def expected(model: Path) -> list[Point]:
    return tiny.reference(model)


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a run on four ranks, sharded in two pipeline stages."""
    directory = tmp_path_factory.mktemp("checkpoints")
    case = Case(
        name="four",
        model=model,
        plan=SHARDED_PIPELINE,
        kind="save_and_go_on",
        options={"directory": directory},
    )
    assert len(gang.points(gang.run(4, [case])["four"])) == tiny.STEPS
    return directory


def copy_of(folder: Path, target: Path) -> Path:
    """Copy checkpoints, so that a test may damage them."""
    for path in folder.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return target


@pytest.fixture(scope="module")
def resumed(model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Take the same checkpoint up on two ranks in three ways, each in a copy of its own."""
    plans: Mapping[str, Mapping[str, Any]] = {
        "tensor": TENSOR,
        "sharded": SHARDED,
        "interleaved": INTERLEAVED,
    }
    cases = [
        Case(
            name=name,
            model=model,
            plan=plan,
            kind="resume",
            options={"directory": copy_of(folder, tmp_path_factory.mktemp(name)), "attempt": 2},
        )
        for name, plan in plans.items()
    ]
    return gang.run(2, cases)


@pytest.mark.parametrize("name", ["tensor", "sharded", "interleaved"])
def test_another_plan_goes_on_where_the_first_stopped(
    name: str, resumed: Mapping[str, Any], expected: list[Point]
) -> None:
    value = resumed[name]
    assert value["step"] == SAVED_AFTER
    assert value["notes"] == {"seen": "half"}
    difference = gang.worst(gang.points(value["points"]), expected[SAVED_AFTER:])
    print(f"{name}: loss {difference.loss:.1e}, gradient norm {difference.norm:.1e}")
    assert difference.loss <= 1e-5
    assert difference.norm <= 1e-4


@pytest.fixture(scope="module")
def alone(model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Show one rank checkpoints in several conditions; what it makes of each."""

    def ours(name: str) -> Path:
        return copy_of(folder, tmp_path_factory.mktemp(name))

    def damaged(name: str, file: str) -> Path:
        path = next(ours(name).glob("step-*")) / file
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        return path.parent.parent

    def prepared(name: str) -> Path:
        path = next(ours(name).glob("step-*"))
        (path / ".metadata").write_bytes(b"cposix\nsystem\n(S'exit 1'\ntR.")
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"][".metadata"] = digest(path / ".metadata")
        (path / "manifest.json").write_text(json.dumps(manifest))
        return path.parent

    without_manifest = ours("unfinished")
    next(without_manifest.glob("step-*/manifest.json")).unlink()
    restores = {
        "whole": {"directory": ours("whole")},
        "flipped bit": {"directory": damaged("flipped", "__2_0.distcp")},
        "flipped metadata": {"directory": damaged("metadata", ".metadata")},
        "prepared": {"directory": prepared("prepared")},
        "unfinished": {"directory": without_manifest},
        "empty": {"directory": tmp_path_factory.mktemp("empty")},
        "another run": {"directory": ours("foreign"), "identity": "other"},
        "older attempt": {"directory": ours("older"), "attempt": 0},
        "before": {"directory": ours("before"), "before_step": SAVED_AFTER},
        "just after": {"directory": ours("just after"), "before_step": SAVED_AFTER + 1},
    }
    cases = [
        Case(name=name, model=model, kind="restore_only", options=options)
        for name, options in restores.items()
    ]
    fenced = tmp_path_factory.mktemp("fenced")
    cases.append(Case(name="fenced", model=model, kind="fenced", options={"directory": fenced}))
    return {**gang.run(1, cases), "fenced folder": fenced}


def test_a_whole_checkpoint_is_restored_without_a_word(alone: Mapping[str, Any]) -> None:
    assert alone["whole"] == {"step": SAVED_AFTER, "warnings": []}


def test_a_checkpoint_of_fewer_steps_than_asked_is_restored(alone: Mapping[str, Any]) -> None:
    assert alone["just after"] == {"step": SAVED_AFTER, "warnings": []}


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("before", f"one from before step {SAVED_AFTER} was asked for"),
        ("flipped bit", "__2_0.distcp is damaged"),
        ("flipped metadata", ".metadata is damaged"),
        ("prepared", "it asks for posix.system, which no checkpoint needs"),
        ("another run", "another run"),
        ("older attempt", "attempt 1, this is attempt 0"),
    ],
)
def test_what_cannot_be_used_is_passed_over_with_the_reason(
    name: str, word: str, alone: Mapping[str, Any]
) -> None:
    assert alone[name]["step"] == 0
    (warning,) = alone[name]["warnings"]
    assert word in warning


@pytest.mark.parametrize("name", ["unfinished", "empty"])
def test_what_is_no_checkpoint_is_not_mentioned(name: str, alone: Mapping[str, Any]) -> None:
    assert alone[name] == {"step": 0, "warnings": []}


def test_an_attempt_that_was_replaced_saves_nothing(alone: Mapping[str, Any]) -> None:
    assert "attempt 1 was replaced by attempt 2" in alone["fenced"]
    assert not list(alone["fenced folder"].glob("step-*"))
    fence = json.loads((alone["fenced folder"] / "fence.json").read_text())
    assert fence == {"identity": "run", "attempt": 2}


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Models trained and exported by two ranks under two plans."""
    (model / "tokenizer_config.json").write_text("{}")
    folder = tmp_path_factory.mktemp("exports")
    plans = {"interleaved": INTERLEAVED, "tensor": TENSOR, "sharded": SHARDED}
    dtypes = {"interleaved": "float32", "tensor": "float32", "sharded": "bfloat16"}
    cases = [
        Case(
            name=name,
            model=model,
            plan=plan,
            kind="export",
            options={"directory": folder / name, "dtype": dtypes[name]},
        )
        for name, plan in plans.items()
    ]
    results = gang.run(2, cases)
    assert all(isinstance(value, list) for value in results.values()), results
    return {name: folder / name for name in plans}


@pytest.mark.parametrize("name", ["interleaved", "tensor", "sharded"])
def test_an_export_loads_with_nothing_missing_and_nothing_left_over(
    name: str, exported: Mapping[str, Path]
) -> None:
    _, info = AutoModelForCausalLM.from_pretrained(exported[name], output_loading_info=True)
    assert not any(info.values()), info
    files = sorted(path.name for path in exported[name].iterdir())
    assert files == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer_config.json",
    ]


def test_exports_under_different_plans_hold_the_same_model(exported: Mapping[str, Path]) -> None:
    first, second = (
        AutoModelForCausalLM.from_pretrained(exported[name]).state_dict()
        for name in ("interleaved", "tensor")
    )
    assert first.keys() == second.keys()
    assert max(float((first[k] - second[k]).abs().max()) for k in first) <= 5e-5


def test_an_export_names_its_type_and_class(exported: Mapping[str, Path]) -> None:
    config = json.loads((exported["sharded"] / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["use_cache"] is True
    model = AutoModelForCausalLM.from_pretrained(exported["sharded"])
    assert {str(value.dtype) for value in model.parameters()} == {"torch.bfloat16"}
