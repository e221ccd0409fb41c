"""Texts → tokens with their answers marked, and rows of one length for a script's DataLoader."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launching.tokenizer import tokenizer
from qwenft_trainer import records
from qwenft_trainer.padded import rows as padded
from qwenft_trainer.prepare import padding
from qwenft_trainer.shapes import Text
from qwenft_trainer.shards import Options, _encode

pytestmark = pytest.mark.torch

IGNORED = -100
PROMPT, ANSWER = "def add(a, b)\n", "Return the sum of two numbers.<|endoftext|>"


def text(prompt: str, answer: str) -> Text:
    end = len(prompt) + len(answer)
    return Text(content=prompt + answer, answers=((len(prompt), end),))


def ids(content: str) -> list[int]:
    found = tokenizer()(content, add_special_tokens=False)["input_ids"]
    assert isinstance(found, list)
    return found


def encoded(prompt: str, answer: str, *, mask: bool = True) -> tuple[list[int], list[bool]]:
    options = Options(length=64, mask_prompt=mask)
    ((tokens, flags),) = _encode([text(prompt, answer)], tokenizer(), options)
    assert tokens.dtype == np.int32
    return tokens.tolist(), flags.tolist()


def test_the_tokens_are_those_of_the_whole_text() -> None:
    tokens, flags = encoded(PROMPT, ANSWER, mask=False)
    assert tokens == ids(PROMPT + ANSWER)
    assert all(flags)


def test_masking_the_prompt_trains_the_answer_only() -> None:
    tokens, flags = encoded(PROMPT, ANSWER)
    kept = [token for token, flag in zip(tokens, flags, strict=True) if flag]
    assert tokenizer().decode(kept) == ANSWER


def test_a_token_that_spans_the_border_is_trained() -> None:
    assert ids("retu") != ids("return")[: len(ids("retu"))], "the tokenizer must join the border"
    tokens, flags = encoded("retu", "rn")
    first = flags.index(True)
    assert len(tokenizer().decode(tokens[:first])) < len("retu")
    assert all(flags[first:])


@pytest.mark.parametrize("prompt", ["größe 大きさ 🙂 ", "🙂🙂", ""])
def test_characters_of_several_tokens_stay_on_their_side(prompt: str) -> None:
    tokens, flags = encoded(prompt, "大🙂 word")
    kept = [token for token, flag in zip(tokens, flags, strict=True) if flag]
    assert tokenizer().decode(kept).endswith("大🙂 word")
    assert sum(flags) <= len(ids("大🙂 word")) + 1


def test_several_answers_are_trained_and_what_is_between_them_is_not() -> None:
    content = "ask one two ask three"
    spans = ((4, 7), (16, 21))
    (found,) = _encode(
        [Text(content=content, answers=spans)], tokenizer(), Options(length=9, mask_prompt=True)
    )
    kept = tokenizer().decode(found[0][found[1]].tolist())
    assert kept.split() == ["one", "three"]


@pytest.mark.parametrize(
    ("pad", "end", "expected"),
    [("<|im_end|>", "<|endoftext|>", 2), (None, "<|im_start|>", 1), (None, None, 0)],
)
def test_padding_is_the_pad_token_else_the_end_token_else_zero(
    pad: str | None, end: str | None, expected: int
) -> None:
    changed: Any = copy.deepcopy(tokenizer())
    changed.pad_token, changed.eos_token = pad, end
    assert padding(changed) == expected
    assert padding(None) == 0


def rows_of(*, masked: bool) -> list[dict[str, torch.Tensor]]:
    trained = np.array([not masked, True, True, not masked, True])
    return padded(np.array([3, 2]), np.array([5, 6, 7, 8, 9], np.int32), trained, width=4, pad=2)


def test_rows_are_padded_at_the_right() -> None:
    first, second = rows_of(masked=False)
    assert first["input_ids"].tolist() == [5, 6, 7, 2]
    assert first["attention_mask"].tolist() == [1, 1, 1, 0]
    assert second["input_ids"].tolist() == [8, 9, 2, 2]
    assert set(first) == {"input_ids", "attention_mask"}


def test_labels_are_there_where_something_is_context_only() -> None:
    first, second = rows_of(masked=True)
    assert first["labels"].tolist() == [IGNORED, 6, 7, IGNORED]
    assert second["labels"].tolist() == [IGNORED, 9, IGNORED, IGNORED]


def test_rows_share_one_block_of_memory_so_that_files_load_fast() -> None:
    first, second = (row["input_ids"].untyped_storage().data_ptr() for row in rows_of(masked=True))
    assert first == second


@pytest.mark.parametrize("masked", [False, True])
def test_rows_are_records_that_the_trainer_reads(*, masked: bool, tmp_path: Path) -> None:
    del tmp_path
    flat = records.flatten(rows_of(masked=masked), where="x")
    assert flat["tokens"].tolist() == [5, 6, 7, 8, 9]
    assert flat["offsets"].tolist() == [0, 3, 5]
    assert flat["trained"].tolist() == [not masked, True, True, not masked, True]
