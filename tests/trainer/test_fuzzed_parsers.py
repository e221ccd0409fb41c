"""The trainer's parsers answer hostile input with their own errors; `make fuzz` asks at length."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from fuzzing.checkpoint_targets import Directory, resumed, saved
from fuzzing.torch_targets import torch_targets

pytestmark = pytest.mark.torch

NAMES = (
    "dataset file", "dataset records", "checkpoint manifest", "checkpoint contents",
    "checkpoint table", "checkpoint directory", "fence", "model's headers", "flat dataset",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_mutations_are_read_or_refused(tmp_path: Path, name: str) -> None:
    targets = {target.name: target for target in torch_targets(tmp_path)}
    assert set(targets) == set(NAMES)
    for number in range(40):
        targets[name].try_one(Random(number))  # noqa: S311 - chance for a test


def test_an_honest_directory_is_resumed_from(tmp_path: Path) -> None:
    saved(tmp_path)
    resumed(tmp_path)


def test_most_spoilt_directories_are_passed_over_and_some_are_read(tmp_path: Path) -> None:
    """Else the fuzzing would try one side of the check only."""
    from qwenft_trainer.checkpoint_files import find, unlisted, verify  # noqa: PLC0415
    from qwenft_trainer.checkpoint_reader import suspicious  # noqa: PLC0415

    directory, used = Directory(tmp_path / "made"), []
    for number in range(60):
        folder = directory.spoilt(Random(number))  # noqa: S311 - chance for a test
        used.append(any(
            not (unlisted(each) or verify(each.path, each.files) or suspicious(each.path))
            for each in find(folder)
        ))  # fmt: skip
    assert 5 < sum(used) < 55
