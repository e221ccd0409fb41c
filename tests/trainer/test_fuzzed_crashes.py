"""Inputs with which fuzzing brought a parser down; kept so that none does so again."""

import json
from pathlib import Path

import pytest

from qwenft_trainer.checkpoint_files import MANIFEST, find
from qwenft_trainer.failure import DatasetInvalid
from qwenft_trainer.records import flatten

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("key", ["input_ids", "attention_mask"])
def test_a_number_beyond_every_float_is_no_token(key: str) -> None:
    record = {"input_ids": [1, 2], "attention_mask": [1, 1]} | {key: [0.5, 10**400]}
    with pytest.raises(DatasetInvalid, match=key):
        flatten([record], where="train")


@pytest.mark.parametrize("key", ["step", "attempt"])
def test_an_infinite_step_makes_no_checkpoint(tmp_path: Path, key: str) -> None:
    whole = {"step": 4, "attempt": 1, "identity": "run", "files": {}, "notes": {}}
    folder = tmp_path / "step-00000004-attempt-0001"
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps(whole | {key: float("inf")}))
    assert find(tmp_path) == ()
