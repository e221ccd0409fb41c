"""Dataset files: both layouts come out as the same samples, and a bad file is refused by name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from qwenft_trainer import data
from qwenft_trainer.data import IGNORED, Dataset, Splits, load, save_flat
from qwenft_trainer.failure import DatasetInvalid

pytestmark = pytest.mark.torch

RECORDS = [
    {"input_ids": [5, 6, 7, 0], "attention_mask": [1, 1, 1, 0]},
    {"input_ids": [8, 9], "labels": [IGNORED, 9]},
    {"input_ids": [0, 0, 3], "attention_mask": [0, 0, 1]},
]


def written(folder: Path, content: Any) -> Path:
    path = folder / "set.pt"
    torch.save(content, path)
    return path


def refused(path: Path, *, vocab_size: int | None = None) -> str:
    with pytest.raises(DatasetInvalid) as caught:
        load(path, vocab_size=vocab_size)
    return str(caught.value)


def flat_content(**changes: Any) -> dict[str, Any]:
    """Return a good file of the flat layout, some fields of its split changed."""
    split: dict[str, Any] = {
        "tokens": torch.tensor([5, 6, 7, 8], dtype=torch.int32),
        "trained": torch.ones(4, dtype=torch.bool),
        "offsets": torch.tensor([0, 1, 4]),
    }
    return {f"train.{name}": value for name, value in (split | changes).items()}


def flat_file(folder: Path, version: str = "1", **changes: Any) -> Path:
    path = folder / "set.safetensors"
    save_file(flat_content(**changes), path, {"format": "qwenft-flat", "version": version})
    return path


def values(rows: list[Tensor]) -> list[list[int]]:
    return [row.tolist() for row in rows]


def test_records_become_samples_without_padding(tmp_path: Path) -> None:
    splits = load(written(tmp_path, {"train": RECORDS}))
    tokens, labels = splits.train.rows([0, 1, 2])
    assert values(tokens) == [[5, 6, 7], [8, 9], [3]]
    assert values(labels) == [[5, 6, 7], [IGNORED, 9], [3]]
    assert len(splits.train) == 3
    assert splits.validation is None


def test_samples_are_had_in_the_order_asked_for_and_as_often(tmp_path: Path) -> None:
    train = load(written(tmp_path, {"train": RECORDS})).train
    assert values(train.rows([2, 0, 2])[0]) == [[3], [5, 6, 7], [3]]
    assert train.rows([]) == ([], [])


def test_tokens_and_labels_are_int64_as_models_take_them(tmp_path: Path) -> None:
    tokens, labels = load(written(tmp_path, {"train": RECORDS})).train.rows([0])
    assert tokens[0].dtype == labels[0].dtype == torch.int64


def test_changing_a_batch_leaves_the_dataset_alone(tmp_path: Path) -> None:
    train = load(written(tmp_path, {"train": RECORDS})).train
    tokens, labels = train.rows([0])
    tokens[0].zero_()
    labels[0].zero_()
    assert values(train.rows([0])[0]) == [[5, 6, 7]]


def test_the_first_token_of_a_sample_is_no_prediction(tmp_path: Path) -> None:
    records = [
        {"input_ids": [5, 6, 7]},
        {"input_ids": [8, 9, 4], "labels": [IGNORED, IGNORED, 4]},
        {"input_ids": [3]},
        {"input_ids": [1, 2], "labels": [1, IGNORED]},
    ]
    train = load(written(tmp_path, {"train": records})).train
    assert train.trained_tokens().tolist() == [2, 1, 0, 0]
    assert train.lengths().tolist() == [3, 3, 1, 2]


def test_trained_tokens_are_what_a_shifted_loss_counts(tmp_path: Path) -> None:
    train = load(written(tmp_path, {"train": RECORDS})).train
    _, labels = train.rows(range(3))
    counted = [int((row[1:] != IGNORED).sum()) for row in labels]
    assert train.trained_tokens().tolist() == counted


def test_an_empty_sample_in_a_flat_file_trains_nothing_and_shifts_no_count() -> None:
    dataset = Dataset(
        tokens=torch.tensor([5, 6, 7], dtype=torch.int32),
        trained=torch.ones(3, dtype=torch.bool),
        offsets=torch.tensor([0, 0, 2, 2, 3]),
    )
    assert dataset.trained_tokens().tolist() == [0, 1, 0, 0]


def test_both_splits_are_read(tmp_path: Path) -> None:
    splits = load(written(tmp_path, {"train": RECORDS, "validation": RECORDS[:1]}))
    assert splits.validation is not None
    assert values(splits.validation.rows([0])[0]) == [[5, 6, 7]]


def test_a_validation_split_of_none_is_no_split(tmp_path: Path) -> None:
    assert load(written(tmp_path, {"train": RECORDS, "validation": None})).validation is None


@pytest.mark.parametrize("validation", [False, True])
def test_the_flat_layout_gives_the_same_samples(tmp_path: Path, *, validation: bool) -> None:
    content = {"train": RECORDS} | ({"validation": RECORDS[1:]} if validation else {})
    before = load(written(tmp_path, content))
    save_flat(before, tmp_path / "flat.safetensors")
    after = load(tmp_path / "flat.safetensors", vocab_size=10)
    for name in ("train", "validation"):
        old, new = getattr(before, name), getattr(after, name)
        assert (old is None) == (new is None)
        for field in Dataset.__slots__ if old is not None else ():
            assert torch.equal(getattr(old, field), getattr(new, field))


def test_a_path_may_be_text(tmp_path: Path) -> None:
    assert len(load(str(written(tmp_path, {"train": RECORDS}))).train) == 3


def test_a_missing_file_is_named_with_the_field_to_look_at(tmp_path: Path) -> None:
    said = refused(tmp_path / "gone.pt")
    assert said.startswith(f"{tmp_path}/gone.pt: no such file")
    assert "spec.dataset.path" in said
    assert "volume" in said


def test_a_directory_is_no_dataset_file(tmp_path: Path) -> None:
    assert refused(tmp_path).startswith(f"{tmp_path}: no such file")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], 'must hold {"train": …}, not a list'),
        (torch.zeros(2), 'must hold {"train": …}, not a Tensor'),
        ({}, 'has no "train" split, only nothing'),
        ({"test": RECORDS, "dev": RECORDS}, 'has no "train" split, only test, dev'),
        ({"train": None}, 'has no "train" split, only train'),
        ({"train": []}, "train: is empty"),
        ({"train": RECORDS, "validation": []}, "validation: is empty"),
        ({"train": 5}, "train: must be a list of records, not int"),
        ({"train": [*RECORDS, {"ids": [1]}]}, "train[3]: has no input_ids, only ids"),
        ({"train": RECORDS, "validation": [{}]}, "validation[0]: has no input_ids"),
        ({"train": RECORDS[2:]}, "train: no sample has a token to train on"),
    ],
)
def test_a_file_with_other_content_is_refused_by_file_split_and_record(
    tmp_path: Path, content: Any, said: str
) -> None:
    path = written(tmp_path, content)
    sentence = refused(path)
    assert sentence.startswith(f"{path}: ")
    assert said in sentence


@pytest.mark.parametrize(
    ("token", "vocab_size", "allowed"),
    [(511, 512, True), (512, 512, False), (4095, 512, False), (-1, 512, False), (-1, None, False),
     (151_935, None, True)],
)  # fmt: skip
def test_a_token_beyond_the_vocabulary_is_refused_by_record(
    tmp_path: Path, *, token: int, vocab_size: int | None, allowed: bool
) -> None:
    path = written(tmp_path, {"train": [*RECORDS, {"input_ids": [1, token, 2]}]})
    if allowed:
        assert len(load(path, vocab_size=vocab_size).train) == 4
        return
    sentence = refused(path, vocab_size=vocab_size)
    assert sentence.startswith(f"{path}: train[3]: token id {token} is outside")
    assert "made with another tokenizer" in sentence
    assert vocab_size is None or f"vocabulary of {vocab_size}" in sentence


def test_the_record_is_named_where_a_shorter_one_lies_before_it(tmp_path: Path) -> None:
    records = [{"input_ids": [1]}, {"input_ids": [1, 2, 3]}, {"input_ids": [900, 1]}]
    path = written(tmp_path, {"train": records[:2], "validation": records})
    assert f"{path}: validation[2]: token id 900" in refused(path, vocab_size=512)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offsets": torch.tensor([0, 1, 3])}, "offsets do not fit the 4 tokens"),
        ({"offsets": torch.tensor([1, 2, 4])}, "offsets do not fit the 4 tokens"),
        ({"offsets": torch.tensor([0, 5, 4])}, "offsets do not fit the 4 tokens"),
        ({"offsets": torch.empty(0, dtype=torch.int64)}, "offsets do not fit the 4 tokens"),
        ({"trained": torch.ones(3, dtype=torch.bool)}, "offsets do not fit the 4 tokens"),
        ({"tokens": torch.zeros(2, 2, dtype=torch.int32)}, "tokens must be a tensor"),
        ({"tokens": torch.zeros(4)}, "tokens must be a tensor"),
        ({"trained": torch.ones(4, dtype=torch.int64)}, "trained must be a tensor"),
        ({"offsets": torch.tensor([0.0, 1.0, 4.0])}, "offsets must be a tensor"),
        ({"flavour": torch.ones(1)}, "flavour"),
    ],
)
def test_a_damaged_flat_file_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = flat_file(tmp_path, **changes)
    sentence = refused(path)
    assert sentence.startswith(f"{path}: train: ")
    assert said in sentence


def test_a_flat_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = flat_file(tmp_path, version="2")
    assert f"{path}: is no dataset of this version's qwenft prepare" in refused(path)


@pytest.mark.parametrize("keep", [0, 7, 40, 200])
def test_a_flat_file_that_was_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    path = flat_file(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    assert refused(path).startswith(f"{path}: cannot be read")


@pytest.mark.parametrize("name", ["records.jsonl", "records.parquet"])
def test_text_in_place_of_a_dataset_is_refused_with_the_command_to_type(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("{}")
    assert f"qwenft prepare --input {name}" in refused(tmp_path / name)


def test_a_good_flat_file_is_read(tmp_path: Path) -> None:
    train = load(flat_file(tmp_path)).train
    assert values(train.rows([0, 1])[0]) == [[5], [6, 7, 8]]


@pytest.mark.parametrize("part", [1, 2, 3, 7, 1000])
def test_counts_are_the_same_whatever_the_parts_that_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(data, "PART", part)
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(0, 6, (9,), generator=generator)
    trained = torch.rand(int(lengths.sum()), generator=generator) < 0.6
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)))
    dataset = Dataset(tokens=trained.int(), trained=trained, offsets=offsets)
    for limit in (1, 2, 4, 100):
        spans = [slice(int(b) + 1, min(int(e), int(b) + limit)) for b, e in pairwise(offsets)]
        assert dataset.trained_within(limit).tolist() == [int(trained[s].sum()) for s in spans]


@pytest.mark.parametrize("samples", [1, 2, 97])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_sees_every_sample_exactly_once(samples: int, epoch: int) -> None:
    found = data.order(samples, seed=3, epoch=epoch)
    assert sorted(found.tolist()) == list(range(samples))
    assert found.dtype == torch.int64


def test_the_order_is_that_of_a_scripts_seeded_shuffle() -> None:
    generator = torch.Generator().manual_seed(7 + 2)
    assert torch.equal(data.order(50, seed=7, epoch=2), torch.randperm(50, generator=generator))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_drawn_before() -> None:
    first = data.order(50, seed=0, epoch=0)
    torch.rand(10)
    assert torch.equal(first, data.order(50, seed=0, epoch=0))
    assert not torch.equal(first, data.order(50, seed=0, epoch=1))
    assert not torch.equal(first, data.order(50, seed=1, epoch=0))


def test_asking_for_an_order_moves_no_random_numbers_of_the_script() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    data.order(50, seed=0, epoch=0)
    assert torch.equal(torch.rand(3), expected)


def test_splits_may_hold_training_data_only(tmp_path: Path) -> None:
    dataset = load(flat_file(tmp_path)).train
    assert Splits(train=dataset).validation is None
