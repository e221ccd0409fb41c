"""A disk that is full on one node only: every rank ends with one error that says which, and where.

Two ranks stand for two nodes that share nothing but a store; the last one's disk is the full one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from parity import gang, tiny
from parity.gang import Case
from qwenft_trainer.checkpoint_files import find
from qwenft_trainer.converted import load_once

pytestmark = pytest.mark.torch
SHARDED, REPLICAS = {"dp_shard": 2}, {"dp_replicate": 2}
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("full")
    tiny.write_model(made / "model", tiny.make_config(num_hidden_layers=2))
    rows = [
        {"input_ids": (torch.arange(48) * 3 + begin) % tiny.VOCABULARY,
         "attention_mask": torch.ones(48, dtype=torch.long)}
        for begin in range(8 * STEPS)
    ]  # fmt: skip
    torch.save({"train": rows}, made / "data.pt")
    return made


@pytest.fixture(scope="module")
def model_bytes(folder: Path) -> int:
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    return 4 * sum(value.numel() for value in model.parameters())


@pytest.fixture(scope="module")
def outcomes(folder: Path, model_bytes: int) -> Mapping[str, Any]:
    def run(name: str, where: str, **options: Any) -> Case:
        chosen = {"dataset": folder / "data.pt", "output": f"file://{folder}/{where}",
                  "apart": True, "scratch": folder / "scratch" / name, "save_every": 2,
                  "full_rank": 1} | options  # fmt: skip
        return Case(name=name, model=folder / "model", plan=SHARDED, kind="loop", options=chosen)

    def export(name: str, plan: Mapping[str, Any] = SHARDED, **options: Any) -> Case:
        chosen = {"directory": folder / name} | options
        return Case(
            name=name, model=folder / "model", plan=plan, kind="export_apart", options=chosen
        )

    half = model_bytes // 2
    cases = [
        run("saving", "run", full_after=3),
        run("resuming", "run", full_after=0, attempt=2),
        export("room", free=half),
        export("no room", free=half - 1),
        export("room for a replica's half", REPLICAS, free=half),
        export("cut short", full=True),
    ]
    return gang.run(2, cases)


def test_a_checkpoint_that_one_node_cannot_write_names_its_rank_and_leaves_the_one_before(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    error = outcomes["saving"]["error"]
    assert error["code"] == 70
    where = f"file://{folder}/run/checkpoints/step-00000004-attempt-0001"
    assert error["message"].startswith(f"checkpoint {where} cannot be written")
    assert "rank 1: " in error["message"]
    assert [found.step for found in find(folder / "run" / "checkpoints")] == [2]


def test_what_was_written_of_it_takes_no_room_on_any_node(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["saving"]["error"] is not None
    assert list((folder / "scratch" / "saving").rglob("*step-00000004*")) == []


def test_a_checkpoint_that_one_node_cannot_fetch_is_named(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    message = outcomes["resuming"]["error"]["message"]
    where = f"file://{folder}/run/checkpoints/step-00000002-attempt-0001"
    assert message.startswith(f"checkpoint {where} cannot be fetched: ")
    assert "File too large" in message


def test_each_node_needs_room_for_what_its_own_ranks_write(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    for name in ("room", "room for a replica's half"):
        assert outcomes[name]["told"] == [None, None]
        assert outcomes[name]["left"][0] == ["model"]
        AutoModelForCausalLM.from_pretrained(folder / name / "0" / "model")


def test_an_export_without_room_on_one_node_is_refused_alike_everywhere(
    outcomes: Mapping[str, Any], model_bytes: int
) -> None:
    told = outcomes["no room"]["told"]
    half = model_bytes // 2
    what = f"No space left on device, {half - 1:,} bytes are free on the node of rank 1"
    for each in told:
        assert each.startswith("the model cannot be written to ")
        assert each.endswith(f"{what}, which needs {half:,}")
    assert outcomes["no room"]["left"] == [[], []]


def test_an_export_that_one_node_cannot_write_names_its_rank_and_leaves_nothing(
    outcomes: Mapping[str, Any],
) -> None:
    for told in outcomes["cut short"]["told"]:
        assert told.startswith("the model cannot be written to ")
        assert "rank 1: " in told
    assert outcomes["cut short"]["left"] == [[], []]


@pytest.mark.parametrize("apart", [False, True])
def test_a_dataset_that_finds_no_room_for_its_conversion_is_read_as_it_is(
    folder: Path, tmp_path: Path, *, apart: bool
) -> None:
    (tmp_path / "closed").touch()
    told: list[str] = []
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        splits = load_once(
            folder / "data.pt",
            tmp_path / "closed" / "inner",
            vocab_size=tiny.VOCABULARY,
            apart=apart,
            warn=told.append,
        )
    finally:
        dist.destroy_process_group()
    assert len(splits.train) == 8 * STEPS
    (warning,) = told
    assert warning.startswith(f"{folder / 'data.pt'} is not converted, every rank reads it by ")
