"""Records of token ids, as tokenizers and tutorials write them, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qwenft_trainer.failure import DatasetInvalid
from qwenft_trainer.records import IGNORED, flatten

pytestmark = pytest.mark.torch


def flat(*records: Any) -> dict[str, list[Any]]:
    return {name: values.tolist() for name, values in flatten(records, where="set.pt").items()}


def refused(records: Any) -> str:
    with pytest.raises(DatasetInvalid) as caught:
        flatten(records, where="set.pt: train")
    return str(caught.value)


def test_records_come_out_end_to_end_with_their_offsets() -> None:
    assert flat({"input_ids": [5, 6, 7]}, {"input_ids": [8, 9]}) == {
        "tokens": [5, 6, 7, 8, 9],
        "trained": [True] * 5,
        "offsets": [0, 3, 5],
    }


def test_the_flat_tensors_have_the_types_that_the_dataset_promises() -> None:
    found = flatten([{"input_ids": [5, 6]}], where="x")
    assert {name: value.dtype for name, value in found.items()} == {
        "tokens": torch.int32,
        "trained": torch.bool,
        "offsets": torch.int64,
    }


def test_no_records_come_out_as_empty_tensors() -> None:
    assert flat() == {"tokens": [], "trained": [], "offsets": [0]}


@pytest.mark.parametrize(
    "ids",
    [
        [5, 6, 7],
        (5, 6, 7),
        torch.tensor([5, 6, 7]),
        torch.tensor([5, 6, 7], dtype=torch.int32),
        torch.tensor([5, 6, 7], dtype=torch.uint8),
        torch.tensor([[5, 6, 7]]),
        [[5, 6, 7]],
    ],
    ids=["list", "tuple", "int64", "int32", "uint8", "batch of one", "nested list"],
)
def test_every_usual_spelling_of_a_row_is_read(ids: Any) -> None:
    assert flat({"input_ids": ids})["tokens"] == [5, 6, 7]


@pytest.mark.parametrize(
    ("mask", "kept"),
    [
        ([1, 1, 1, 1], [5, 6, 7, 8]),
        ([1, 1, 0, 0], [5, 6]),
        ([0, 0, 1, 1], [7, 8]),
        ([0, 1, 1, 0], [6, 7]),
        ([0, 0, 0, 1], [8]),
        (torch.tensor([True, True, False, False]), [5, 6]),
        (torch.tensor([[1, 0, 0, 0]]), [5]),
    ],
)
def test_padding_is_taken_off_at_either_end(mask: Any, kept: list[int]) -> None:
    found = flat({"input_ids": [5, 6, 7, 8], "attention_mask": mask})
    assert found["tokens"] == kept
    assert found["offsets"] == [0, len(kept)]


def test_labels_say_which_tokens_are_context_only() -> None:
    record = {"input_ids": [5, 6, 7, 8], "labels": [IGNORED, IGNORED, 7, 8]}
    assert flat(record)["trained"] == [False, False, True, True]


def test_labels_are_cut_together_with_the_padding() -> None:
    record = {
        "input_ids": [0, 5, 6, 7, 0],
        "attention_mask": [0, 1, 1, 1, 0],
        "labels": [IGNORED, IGNORED, 6, 7, IGNORED],
    }
    assert flat(record) == {
        "tokens": [5, 6, 7],
        "trained": [False, True, True],
        "offsets": [0, 3],
    }


def test_what_labels_say_of_padding_does_not_matter() -> None:
    record = {"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0], "labels": [5, 6, 99]}
    assert flat(record)["trained"] == [True, True]


def test_columns_that_training_does_not_need_are_left_aside() -> None:
    assert flat({"input_ids": [5, 6], "text": "hi", "id": 4})["tokens"] == [5, 6]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (7, "set.pt: train: must be a list of records, not int"),
        (torch.zeros(3), "set.pt: train: must be a list of records, not Tensor"),
        ({"input_ids": [1]}, "set.pt: train: must be a list of records, not dict"),
        ([[1, 2]], "set.pt: train[0]: must be a dict, not list"),
        ("text", "set.pt: train[0]: must be a dict, not str"),
        ([{"text": "a", "id": 1}], "set.pt: train[0]: has no input_ids, only text, id"),
    ],
)
def test_another_shape_than_a_list_of_records_is_refused(records: Any, said: str) -> None:
    assert refused(records) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "is no list of integers"),
        ("abc", "is no list of integers"),
        (["a"], "is no list of integers"),
        ([1, None], "is no list of integers"),
        ([[1, 2], [3]], "is no list of integers"),
        ([2**70], "is no list of integers"),
        ([1.5, 2.0], "must be a row of integers, not torch.float32"),
        (torch.tensor([1j]), "must be a row of integers, not torch.complex64"),
        (torch.tensor(5), "must be a row of integers, not torch.int64 ()"),
        (torch.zeros(2, 3, dtype=torch.int64), "must be a row of integers, not torch.int64 (2, 3)"),
        ([], "must be a row of integers"),
    ],
)
@pytest.mark.parametrize("key", ["input_ids", "attention_mask", "labels"])
def test_a_column_that_is_no_row_of_integers_is_refused_by_record_and_name(
    key: str, value: Any, said: str
) -> None:
    good = {"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [1, 2]}
    sentence = refused([good, good | {key: value}])
    assert sentence.startswith(f"set.pt: train[1].{key}: ")
    assert said in sentence


@pytest.mark.parametrize("key", ["attention_mask", "labels"])
def test_columns_of_unequal_length_are_refused_with_both_numbers(key: str) -> None:
    sentence = refused([{"input_ids": [1, 2, 3], key: [1, 1]}])
    assert sentence == f"set.pt: train[0]: {key} has 2 entries, input_ids 3"


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ([0, 0, 0, 0], "masks every token out"),
        ([1, 0, 1, 1], "has zeros between ones; pad at one end only"),
        ([0, 1, 0, 1], "has zeros between ones; pad at one end only"),
        ([1, 1, 2, 0], "holds 2; only 0 and 1 are allowed"),
        ([1, -1, 1, 0], "holds -1; only 0 and 1 are allowed"),
    ],
)
def test_a_mask_that_padding_cannot_make_is_refused(mask: list[int], said: str) -> None:
    sentence = refused([{"input_ids": [1, 2, 3, 4], "attention_mask": mask}])
    assert sentence == f"set.pt: train[0].attention_mask: {said}"


@pytest.mark.parametrize("token", [2**31, 2**32 + 5, 2**62, -(2**32) + 5, -(2**31) - 1])
def test_an_id_beyond_32_bits_never_wraps_round_into_a_valid_one(token: int) -> None:
    sentence = refused([{"input_ids": [1, token, 3]}])
    assert sentence == f"set.pt: train[0].input_ids: {token} is no token id"


def test_labels_of_other_tokens_than_the_inputs_are_refused_with_the_way_out() -> None:
    sentence = refused([{"input_ids": [4, 5, 6], "labels": [5, 6, IGNORED]}])
    assert sentence.startswith("set.pt: train[0].labels: entry 0 is 5, but input_ids has 4; ")
    assert "unshifted" in sentence
    assert str(IGNORED) in sentence


def test_a_record_of_tensors_and_one_of_lists_come_out_alike() -> None:
    lists = {"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0], "labels": [IGNORED, 6, IGNORED]}
    tensors: dict[str, Tensor] = {name: torch.tensor(value) for name, value in lists.items()}
    assert flat(lists) == flat(tensors)
