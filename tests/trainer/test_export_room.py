"""A model that finds no room ends the export with one error, and what was there stays there."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from parity.tiny import make_config, make_plan
from qwenft_plan.spec import MATRICES, Lora
from qwenft_trainer.export import export_adapter, export_model
from qwenft_trainer.failure import TrainerError
from qwenft_trainer.mesh import build_mesh
from qwenft_trainer.stages import Stages, build_stages
from qwenft_trainer.weights import Fresh

pytestmark = pytest.mark.torch

ADAPTERS = Lora(rank=4, target_modules=MATRICES)


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(name="alone", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def built(lora: Lora | None = None, *, seed: int = 0) -> Stages:
    plan = make_plan(method="full" if lora is None else "lora")
    return build_stages(plan, build_mesh(plan, "cpu"), make_config(), Fresh(seed=seed), lora=lora)


def export(stages: Stages, directory: Path) -> None:
    export_model(stages, directory, source=None, dtype=torch.float32)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    model, told = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not told["missing_keys"]
    return dict(model.state_dict())


def needed(stages: Stages) -> int:
    return 2 * 4 * sum(value.numel() for value in stages.parameters())


def disk(monkeypatch: pytest.MonkeyPatch, *, total: int, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(total, total - free, free))


def test_a_model_without_room_is_refused_with_its_directory_and_the_bytes_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = built()
    disk(monkeypatch, total=2**40, free=needed(stages) - 1)
    with pytest.raises(TrainerError) as caught:
        export(stages, tmp_path / "model")
    told = str(caught.value)
    assert told.startswith(f"the model cannot be written to {tmp_path / 'model'}, where")
    assert f"{needed(stages):,} bytes must be free" in told
    assert f"No space left on device, {needed(stages) - 1:,} bytes are free" in told
    assert list(tmp_path.iterdir()) == []


def test_just_enough_room_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = built()
    disk(monkeypatch, total=2**40, free=needed(stages))
    export(stages, tmp_path / "model")
    assert weights(tmp_path / "model")


def test_a_store_that_does_not_tell_its_size_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, total=0, free=0)
    export(built(), tmp_path / "model")
    assert weights(tmp_path / "model")


def test_a_write_that_is_cut_short_leaves_the_model_before_it_whole(tmp_path: Path) -> None:
    export(built(seed=1), tmp_path / "model")
    before = weights(tmp_path / "model")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        with pytest.raises(TrainerError, match=r"the model cannot be written to .*/model, where"):
            export(built(seed=2), tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    after = weights(tmp_path / "model")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_adapters_without_room_are_refused_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = built(ADAPTERS)
    bytes_needed = 4 * sum(value.numel() for _, value in stages.trained_parameters())
    disk(monkeypatch, total=2**40, free=10)
    with pytest.raises(TrainerError, match=f"where {bytes_needed:,} bytes must be free.*10 bytes"):
        export_adapter(stages, tmp_path / "adapter", source=None, lora=ADAPTERS, base="m")
    assert list(tmp_path.iterdir()) == []
