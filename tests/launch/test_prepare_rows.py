"""Texts → rows of one length, as the tutorial's script reads them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from launching.tokenizer import tokenizer
from qwenft_trainer import records
from qwenft_trainer.prepare import Options, Text, rows

pytestmark = pytest.mark.torch

IGNORED = -100
ADD = Text(prompt="def add(a, b)\n", response="Return the sum of two numbers.<|endoftext|>")
SHORT = Text(prompt="hello\n", response="world<|endoftext|>")


def ids(text: str) -> list[int]:
    found = tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert isinstance(found, list)
    return found


def row(text: Text, *, length: int = 64, mask_prompt: bool = False) -> dict[str, Tensor]:
    (found,) = rows([text], tokenizer(), Options(length=length, mask_prompt=mask_prompt))
    return found


def test_a_row_is_the_whole_text_and_then_padding() -> None:
    expected = ids(ADD.prompt + ADD.response)
    found = row(ADD)
    assert found["input_ids"].tolist() == expected + [0] * (64 - len(expected))
    assert found["attention_mask"].tolist() == [1] * len(expected) + [0] * (64 - len(expected))
    assert set(found) == {"input_ids", "attention_mask"}


def test_all_rows_have_the_same_length_whatever_the_texts() -> None:
    found = rows([ADD, SHORT, ADD], tokenizer(), Options(length=16))
    assert [len(each["input_ids"]) for each in found] == [16, 16, 16]
    assert torch.stack([each["attention_mask"] for each in found]).sum(1).tolist() == [
        min(16, len(ids(text.prompt + text.response))) for text in (ADD, SHORT, ADD)
    ]


@pytest.mark.parametrize("length", [2, 5, 9])
def test_a_longer_text_loses_its_end(length: int) -> None:
    found = row(ADD, length=length)
    assert found["input_ids"].tolist() == ids(ADD.prompt + ADD.response)[:length]
    assert found["attention_mask"].tolist() == [1] * length


@pytest.mark.parametrize(
    ("pad", "end", "expected"),
    [("<|im_end|>", "<|endoftext|>", 2), (None, "<|im_start|>", 1), (None, None, 0)],
)
def test_padding_is_the_pad_token_else_the_end_token_else_zero(
    pad: str | None, end: str | None, expected: int
) -> None:
    changed: Any = copy.deepcopy(tokenizer())
    changed.pad_token, changed.eos_token = pad, end
    (found,) = rows([SHORT], changed, Options(length=32))
    assert found["input_ids"][-1] == expected
    assert found["attention_mask"][-1] == 0


def test_special_tokens_stand_once_where_the_text_has_them() -> None:
    found = row(ADD)
    kept = found["input_ids"][found["attention_mask"] == 1].tolist()
    assert kept.count(0) == 1
    assert kept[-1] == 0


def test_masking_the_prompt_trains_the_response_only() -> None:
    found = row(ADD, mask_prompt=True)
    trained = found["labels"] != IGNORED
    assert tokenizer().decode(found["input_ids"][trained]) == ADD.response
    assert torch.equal(found["labels"][trained], found["input_ids"][trained])


def test_padding_is_never_trained() -> None:
    found = row(ADD, mask_prompt=True)
    assert (found["labels"][found["attention_mask"] == 0] == IGNORED).all()


def test_a_token_that_spans_the_border_is_trained() -> None:
    prompt, whole = ids("retu"), ids("return")
    assert prompt != whole[: len(prompt)], "the tokenizer must join the border for this case"
    found = row(Text(prompt="retu", response="rn"), mask_prompt=True)
    common = next(i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b)
    assert (found["labels"] != IGNORED).nonzero()[:, 0].tolist() == list(range(common, len(whole)))


def test_a_prompt_longer_than_the_row_leaves_nothing_to_train() -> None:
    found = row(ADD, length=3, mask_prompt=True)
    assert (found["labels"] == IGNORED).all()


def test_an_empty_prompt_masks_nothing() -> None:
    found = row(Text(prompt="", response=ADD.response), mask_prompt=True)
    assert int((found["labels"] != IGNORED).sum()) == len(ids(ADD.response))


def test_rows_share_one_block_of_memory_so_that_files_load_fast() -> None:
    found = rows([ADD, SHORT], tokenizer(), Options(length=16))
    first, second = (each["input_ids"].untyped_storage().data_ptr() for each in found)
    assert first == second


@pytest.mark.parametrize("mask_prompt", [False, True])
def test_rows_are_records_that_the_trainer_reads(*, mask_prompt: bool) -> None:
    options = Options(length=40, mask_prompt=mask_prompt)
    flat = records.flatten(rows([ADD, SHORT], tokenizer(), options), where="x")
    whole = ids(ADD.prompt + ADD.response)
    assert flat["offsets"][1] == len(whole)
    assert flat["tokens"][: len(whole)].tolist() == whole
    assert bool(flat["trained"][0]) is not mask_prompt
    assert bool(flat["trained"][len(whole) - 1])
