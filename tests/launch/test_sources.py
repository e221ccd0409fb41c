"""Where a model comes from; a directory that cannot serve is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from launching.fleet import standing_as
from launching.plans import make_plan
from qwenft_plan.spec import Model
from qwenft_trainer import sources
from qwenft_trainer.failure import ModelInvalid
from qwenft_trainer.sources import find_model, source_of
from qwenft_trainer.weights import Checkpoint, Fresh

pytestmark = pytest.mark.torch


def with_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_a_path_wins_over_a_name_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "snapshot_download", lambda *_, **__: pytest.fail("downloaded"))
    model = Model(name="Qwen/Qwen1.5-7B", path=str(tmp_path))
    assert find_model(model, local_rank=0) == tmp_path


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_path_that_is_no_directory_is_refused_with_a_look_at_the_volume(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "model"
    if kind == "file":
        path.touch()
    with pytest.raises(ModelInvalid) as caught:
        find_model(Model(path=str(path)), local_rank=0)
    assert str(caught.value) == f"model.path {path} is no directory; is its volume mounted?"


@pytest.mark.parametrize(("local_rank", "calls"), [(0, 2), (1, 1)])
def test_a_name_is_downloaded_by_one_process_a_node_and_then_read_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_rank: int, calls: int
) -> None:
    asked: list[str] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        assert "*.safetensors" in allow_patterns
        assert "*.bin" not in allow_patterns
        asked.append(name)
        return str(tmp_path)

    monkeypatch.setattr(sources, "snapshot_download", download)
    with standing_as(local_rank, make_plan(processes_per_node=2)):
        found = find_model(Model(name="Qwen/Qwen1.5-7B"), local_rank=local_rank)
    assert found == tmp_path
    assert asked == ["Qwen/Qwen1.5-7B"] * calls


def test_a_name_that_cannot_be_fetched_is_refused_with_the_hubs_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError("offline mode is enabled")

    monkeypatch.setattr(sources, "snapshot_download", download)
    with pytest.raises(ModelInvalid) as caught:
        find_model(Model(name="Qwen/Qwen9"), local_rank=0)
    said = str(caught.value)
    assert said == "Qwen/Qwen9 cannot be fetched from the hub: offline mode is enabled"


@pytest.mark.parametrize(
    "names", [["model.safetensors"], ["model-00001-of-00002.safetensors", "pytorch_model.bin"]]
)
def test_safetensors_are_what_training_begins_with(tmp_path: Path, names: list[str]) -> None:
    source = source_of(with_files(tmp_path, "config.json", *names), seed=0)
    assert source == Checkpoint(path=tmp_path)


def test_a_config_alone_begins_with_random_weights_of_the_seed(tmp_path: Path) -> None:
    assert source_of(with_files(tmp_path, "config.json"), seed=7) == Fresh(seed=7)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.gguf",
     "model.safetensors.index.json"],
)  # fmt: skip
def test_weights_in_another_format_never_become_random_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        source_of(with_files(tmp_path, "config.json", name), seed=0)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "no *.safetensors" in str(caught.value)
