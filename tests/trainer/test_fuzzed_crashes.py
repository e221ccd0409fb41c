"""Inputs with which fuzzing brought a parser down; kept so that none does so again."""

import json
from pathlib import Path

import pytest

from qwenft_trainer.checkpoint_files import MANIFEST, best, figure, find, last_attempt
from qwenft_trainer.failure import DatasetInvalid, ModelInvalid
from qwenft_trainer.records import flatten
from qwenft_trainer.weights import shapes_in

pytestmark = pytest.mark.torch


def write_manifest(directory: Path, part: dict[str, object]) -> None:
    whole = {"step": 4, "attempt": 1, "identity": "run", "files": {}, "notes": {}}
    folder = directory / "step-00000004-attempt-0001"
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps(whole | part))


@pytest.mark.parametrize("key", ["input_ids", "attention_mask"])
def test_a_number_beyond_every_float_is_no_token(key: str) -> None:
    record = {"input_ids": [1, 2], "attention_mask": [1, 1]} | {key: [0.5, 10**400]}
    with pytest.raises(DatasetInvalid, match=key):
        flatten([record], where="train")


@pytest.mark.parametrize(
    "part",
    [{"files": [[1, 2]]}, {"files": []}, {"files": None}, {"notes": [["a", 1]]}, {"notes": 7}],
    ids=repr,
)
def test_a_manifest_of_another_shape_makes_no_checkpoint(
    tmp_path: Path, part: dict[str, object]
) -> None:
    write_manifest(tmp_path, part)
    assert find(tmp_path) == ()


@pytest.mark.parametrize("note", [10**400, float("nan"), float("inf"), "low", [1], {"a": 1}])
def test_a_note_that_is_no_finite_number_is_no_figure(tmp_path: Path, note: object) -> None:
    write_manifest(tmp_path, {"notes": {"validationLoss": note, "seconds": 2.5}})
    (found,) = find(tmp_path)
    assert figure(found.notes, "seconds") == 2.5
    assert figure(found.notes, "trainedTokens") is None
    assert found.validation_loss is None
    assert best([found]) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "7", "null", '{"identity": "run"}', '{"identity": "run", "attempt": []}',
                '{"identity": "run", "attempt": 1e999}', "[" * 100_000, "\udcff"],
    ids=lambda content: content[:30],
)  # fmt: skip
def test_a_fence_of_another_shape_fences_nobody(tmp_path: Path, content: str) -> None:
    fence = tmp_path / "fence.json"
    fence.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert last_attempt(fence, "run") == 0
    fence.write_text('{"identity": "run", "attempt": 3}')
    assert (last_attempt(fence, "run"), last_attempt(fence, "other")) == (3, 0)


def sharded(told: bytes) -> bytes:
    tensor = b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},'
    return tensor + b' "__metadata__": {"DCP_SHARDING_INFO": "' + told + b'"}}'


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\0" * 7,
        b"{}",
        b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 13]}}',
        b'{"a": {"dtype": "F99", "shape": [3], "data_offsets": [0, 12]}}',
        sharded(b"[1]"),
        sharded(b'{\\"a\\": {\\"saved_offsets\\": 7}}'),
    ],
)
def test_a_model_whose_header_is_damaged_is_named(tmp_path: Path, header: bytes) -> None:
    """A restart would not help, and the code of an error that nobody knows would cause some."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 12)
    with pytest.raises(ModelInvalid, match="damaged") as told:
        shapes_in(tmp_path)
    assert told.value.exit_code == 66


@pytest.mark.parametrize("key", ["step", "attempt"])
def test_an_infinite_step_makes_no_checkpoint(tmp_path: Path, key: str) -> None:
    write_manifest(tmp_path, {key: float("inf")})
    assert find(tmp_path) == ()
