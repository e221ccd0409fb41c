"""The built-in loop with data, checkpoints and output behind URLs, on nodes that share nothing.

The store is fsspec's ``file://``, which stands for an object store: the trainer knows only URLs.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from parity import gang, tiny
from parity.gang import Case
from qwenft_trainer.checkpoint_files import MANIFEST, find

pytestmark = pytest.mark.torch
SHARDED, PIPELINE = {"dp_shard": 2}, {"pp": 2, "accumulation": 2}
STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("remote")
    tiny.write_model(made / "model", tiny.make_config(num_hidden_layers=2))
    generator = torch.Generator().manual_seed(1)
    rows = [
        {
            "input_ids": (torch.arange(48) * 3 + int(begin)) % tiny.VOCABULARY,
            "attention_mask": torch.ones(48, dtype=torch.long),
        }
        for begin in torch.randint(0, 50, (8 * STEPS,), generator=generator)
    ]
    torch.save({"train": rows, "validation": rows[:9]}, made / "data.pt")
    return made


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> Mapping[str, Any]:
    """Two ranks, each a node of its own; attempts after the first find nothing on their disks."""

    def case(name: str, plan: Mapping[str, Any], where: str, **options: Any) -> Case:
        chosen = {"dataset": f"file://{folder}/data.pt", "output": f"file://{folder}/{where}",
                  "apart": True, "scratch": folder / "scratch" / name} | options  # fmt: skip
        return Case(name=name, model=folder / "model", plan=plan, kind="loop", options=chosen)

    local = {"dataset": folder / "data.pt", "output": folder / "local", "apart": False}
    best = {"rate": 1.0, "evaluate_every": 1, "keep_best": True}
    (folder / "closed").touch()
    cases = [
        case("local", SHARDED, "local", save_every=2, **local),
        case("whole", SHARDED, "whole", save_every=2),
        case("stopped", PIPELINE, "interrupted", stop_after=2),
        case("finished", SHARDED, "interrupted", save_every=2, attempt=2),
        case("late", SHARDED, "interrupted", attempt=1),
        case("best", SHARDED, "best", **best),
        case("absent", SHARDED, "absent", dataset=f"file://{folder}/nothing.pt"),
        case("closed", SHARDED, "closed/folder"),
    ]
    return gang.run(2, cases)


def model_of(path: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path)


def test_where_the_output_lies_changes_no_loss(outcomes: Mapping[str, Any]) -> None:
    assert outcomes["whole"]["error"] is None
    assert outcomes["whole"]["losses"] == outcomes["local"]["losses"]


def test_the_result_lies_behind_the_url_and_says_where(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["whole"]["result"]["outputPath"] == f"file://{folder}/whole/model"
    there = model_of(str(folder / "whole" / "model")).state_dict()
    local = model_of(str(folder / "local" / "model")).state_dict()
    assert all(torch.equal(there[name], local[name]) for name in local)


def test_only_what_is_to_stay_lies_behind_the_url(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["whole"]["error"] is None
    assert sorted(path.name for path in (folder / "whole").iterdir() if any_file(path)) == [
        "checkpoints", "model", "result.json"
    ]  # fmt: skip
    kept = find(folder / "whole" / "checkpoints")
    assert [found.step for found in kept] == [6, 4]


def any_file(path: Path) -> bool:
    return path.is_file() or any(each.is_file() for each in path.rglob("*"))


def test_disks_keep_no_checkpoint_but_its_manifest(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["whole"]["error"] is None
    left = [
        path.name
        for path in (folder / "scratch" / "whole").rglob("*step-*/*")
        if path.name != MANIFEST
    ]
    assert left == []


def test_a_stopped_run_goes_on_from_the_store_under_another_plan(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["stopped"]["error"]["code"] == 64
    assert sorted(outcomes["finished"]["losses"]) == ["3", "4", "5", "6"]
    last = outcomes["finished"]["losses"]["6"]
    assert last == pytest.approx(outcomes["local"]["losses"]["6"], abs=1e-4)
    shutil.rmtree(folder / "scratch" / "finished")
    model_of(str(folder / "interrupted" / "model"))


def test_an_earlier_attempt_is_fenced_off_the_store(outcomes: Mapping[str, Any]) -> None:
    message = outcomes["late"]["error"]["message"]
    assert "attempt 1 was replaced by attempt 2" in message
    assert "interrupted/checkpoints; nothing was written" in message


def test_the_best_model_is_sent_too(outcomes: Mapping[str, Any], folder: Path) -> None:
    result = outcomes["best"]["result"]
    assert result["bestStep"] < STEPS
    assert result["bestPath"] == f"file://{folder}/best/best-model"
    model_of(str(folder / "best" / "best-model"))


def test_a_dataset_that_is_not_there_is_the_user_s_to_correct(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    error = outcomes["absent"]["error"]
    assert error["code"] == 65
    assert f"spec.dataset.path: file://{folder}/nothing.pt" in error["message"]


def test_a_store_that_takes_nothing_ends_the_run_by_name(outcomes: Mapping[str, Any]) -> None:
    error = outcomes["closed"]["error"]
    assert error["code"] == 70
    assert "closed/folder/checkpoints" in error["message"]
