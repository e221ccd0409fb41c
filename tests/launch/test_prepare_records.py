"""Lines of JSON → text, prompt and answer told apart; a bad one is refused by file and line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from launching.tokenizer import tokenizer
from qwenft_trainer import inputs, shards
from qwenft_trainer.failure import DatasetInvalid
from qwenft_trainer.shapes import Text
from qwenft_trainer.shards import Options

pytestmark = pytest.mark.torch

GOOD = {"prompt": "def add(a, b)", "response": "Return the sum."}
QUESTION = {"role": "user", "content": "What is two and two?"}
ANSWER = {"role": "assistant", "content": "Four."}


def lines(folder: Path, *records: Any) -> Path:
    """Write a file; text is written as it is, everything else as JSON."""
    path = folder / "records.jsonl"
    rows = [entry if isinstance(entry, str) else json.dumps(entry) for entry in records]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def read(path: Path, reader: Any = None, *, mask: bool = True) -> list[Text]:
    """Read as ``qwenft prepare --mask-prompt`` does; texts only."""
    options = Options(length=9, mask_prompt=mask)
    return [
        shards._text_or_row(*entry, reader or tokenizer(), options)  # type: ignore[misc]
        for block in inputs.blocks(inputs.expand([str(path)]))
        for entry in inputs.read(block)
    ]


def prompt(text: Text) -> str:
    return text.content[: text.answers[0][0]]


def response(text: Text) -> str:
    return "".join(text.content[begin:end] for begin, end in text.answers)


def refused(path: Path, reader: Any = None, *, mask: bool = False) -> str:
    with pytest.raises(DatasetInvalid) as caught:
        read(path, reader, mask=mask)
    return str(caught.value)


def with_template(template: str | None) -> Any:
    changed = copy.deepcopy(tokenizer())
    changed.chat_template = template
    return changed


def test_prompt_and_response_are_joined_by_a_newline_and_closed_by_the_end_token(
    tmp_path: Path,
) -> None:
    (text,) = read(lines(tmp_path, GOOD))
    assert prompt(text) == "def add(a, b)\n"
    assert response(text) == "Return the sum.<|endoftext|>"


def test_a_tokenizer_without_an_end_token_adds_none(tmp_path: Path) -> None:
    plain = copy.deepcopy(tokenizer())
    plain.eos_token = None
    (text,) = read(lines(tmp_path, GOOD), plain)
    assert response(text) == "Return the sum."


def test_lines_keep_their_order_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    records = [GOOD | {"prompt": str(number)} for number in range(5)]
    path = lines(tmp_path, records[0], "", *records[1:3], "   ", *records[3:], "")
    assert [prompt(text) for text in read(path)] == [f"{number}\n" for number in range(5)]


def test_columns_beside_prompt_and_response_are_left_aside(tmp_path: Path) -> None:
    assert read(lines(tmp_path, GOOD | {"id": 7})) == read(lines(tmp_path, GOOD))


def test_text_of_any_script_is_kept(tmp_path: Path) -> None:
    (text,) = read(lines(tmp_path, {"prompt": "größe 大きさ 🙂", "response": "\u2028\t"}))
    assert prompt(text) == "größe 大きさ 🙂\n"
    assert response(text).startswith("\u2028\t")


def test_messages_go_through_the_tokenizers_own_template(tmp_path: Path) -> None:
    (text,) = read(lines(tmp_path, {"messages": [QUESTION, ANSWER]}))
    assert prompt(text) == (
        "<|im_start|>user\nWhat is two and two?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert response(text) == "Four.<|im_end|>\n"


def test_every_answer_of_a_conversation_is_trained_and_nothing_else(tmp_path: Path) -> None:
    again = {"role": "user", "content": "And three?"}
    (text,) = read(lines(tmp_path, {"messages": [QUESTION, ANSWER, again, ANSWER]}))
    assert response(text) == "Four.<|im_end|>\n" * 2


def test_without_masking_the_whole_text_is_trained(tmp_path: Path) -> None:
    (text,) = read(lines(tmp_path, {"messages": [QUESTION]}), mask=False)
    assert response(text) == text.content
    assert text.content.startswith("<|im_start|>user\n")


@pytest.mark.parametrize("messages", [[QUESTION], [ANSWER]])
def test_masking_a_conversation_without_an_answer_is_refused(
    tmp_path: Path, messages: list[Any]
) -> None:
    said = refused(lines(tmp_path, {"messages": messages}), mask=True)
    assert "records.jsonl:1: no answer can be told apart" in said
    assert "leave --mask-prompt out" in said


def test_a_template_that_rewrites_what_went_before_is_refused_where_prompts_are_masked(
    tmp_path: Path,
) -> None:
    reader = with_template(
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    path = lines(tmp_path, {"messages": [QUESTION, ANSWER]})
    assert "no answer can be told apart" in refused(path, reader, mask=True)
    (text,) = read(path, reader, mask=False)
    assert text.content == "2What is two and two?Four."


TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}


def test_sharegpts_conversations_are_messages_by_other_names(tmp_path: Path) -> None:
    same = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    one, other, third = read(
        lines(tmp_path, {"conversations": TURNS}, {"messages": same}, {"conversations": same})
    )
    assert one == other == third
    assert response(one) == "Hello.<|im_end|>\n"


def test_alpacas_instruction_and_input_are_one_question(tmp_path: Path) -> None:
    text, short = read(lines(tmp_path, ALPACA, ALPACA | {"input": ""}))
    assert "user\nAdd.\n1 2<|im_end|>" in text.content
    assert "user\nAdd.<|im_end|>" in short.content
    assert response(text) == response(short) == "3<|im_end|>\n"


def test_alpacas_history_and_system_come_first(tmp_path: Path) -> None:
    (text,) = read(lines(tmp_path, ALPACA | {"history": [["a", "b"]], "system": "Be kind."}))
    assert text.content.startswith("<|im_start|>system\nBe kind.")
    assert response(text) == "b<|im_end|>\n3<|im_end|>\n"


def test_alpaca_without_a_template_is_plain_text(tmp_path: Path) -> None:
    reader = with_template(None)
    (text,) = read(lines(tmp_path, ALPACA), reader)
    assert text.content == "Add.\n1 2\n3<|endoftext|>"
    assert response(text) == "3<|endoftext|>"
    said = refused(lines(tmp_path, ALPACA | {"system": "x"}), reader)
    assert "need a chat template" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("nonsense", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must be an object, not list"),
        ('"text"', "must be an object, not str"),
        ("null", "must be an object, not NoneType"),
        ({"response": "x"}, "its keys (response) fit no known shape"),
        ({"prompt": "x"}, "prompt: prompt, response; alpaca: instruction, output"),
        ({"prompt": 5, "response": "x"}, "prompt is no string"),
        ({"prompt": "x", "response": None}, "response is no string"),
        ({"prompt": "x", "response": ["y"]}, "response is no string"),
        ('{"prompt": "\\ud800", "response": "x"}', "prompt holds half of a surrogate pair"),
        (
            '{"messages": [{"role": "user", "content": "ab\\udc00"}]}',
            "messages[0]: content holds half of a surrogate pair at character 2",
        ),
        ({"conversations": []}, "conversations must be a list of at least one message"),
        ({"conversations": [{"from": "cat", "value": "x"}]}, "[0]: from 'cat' is none of human"),
        ({"conversations": [{"from": "gpt"}]}, "conversations[0]: value must be a string"),
        (ALPACA | {"output": 3}, "output is no string"),
        (ALPACA | {"history": "x"}, "history must be a list of pairs"),
        (ALPACA | {"history": [["x"]]}, "history[0] must be a question and its answer"),
        ({"input_ids": [1.5]}, "input_ids: must be a row of integers"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, "attention_mask has 1 entries"),
        ({"messages": []}, "messages must be a list of at least one message"),
        ({"messages": "hi"}, "messages must be a list of at least one message"),
        ({"messages": None}, "messages must be a list of at least one message"),
        ({"messages": ["hi"]}, "messages[0]: must be an object, not str"),
        ({"messages": [QUESTION, {"content": "x"}]}, "messages[1]: role None is none of system"),
        ({"messages": [QUESTION | {"role": "bot"}]}, "messages[0]: role 'bot' is none of system"),
        ({"messages": [{"role": "user"}]}, "messages[0]: content must be a string"),
        ({"messages": [QUESTION | {"content": None}]}, "messages[0]: content must be a string"),
        ({"messages": [QUESTION | {"role": ["user"]}]}, "messages[0]: role ['user'] is none of"),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else json.dumps(value)[:50],
)
def test_a_bad_line_is_refused_by_file_and_line(tmp_path: Path, line: Any, said: str) -> None:
    path = lines(tmp_path, GOOD, "", line, GOOD)
    sentence = refused(path)
    assert sentence.startswith((f"{path}:3: ", f"{path}:3.input_ids: "))
    assert said in sentence


@pytest.mark.parametrize("template", [None, ""])
def test_messages_without_a_template_are_refused(tmp_path: Path, template: str | None) -> None:
    path = lines(tmp_path, {"messages": [QUESTION]})
    said = refused(path, with_template(template))
    assert said == f"{path}:1: the tokenizer has no chat template for messages"


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('roles must alternate') }}", "{{ 1 // 0 }}", "{% if %}"]
)
def test_what_a_template_refuses_is_refused_by_line(tmp_path: Path, template: str) -> None:
    path = lines(tmp_path, GOOD, {"messages": [QUESTION]})
    sentence = refused(path, with_template(template))
    assert sentence.startswith(f"{path}:2: the chat template refuses it: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone.jsonl").startswith(f"{tmp_path}/gone.jsonl: cannot be read")


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00", b'{"prompt": "caf\xe9"}\n'])
def test_a_file_that_is_no_utf_8_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path}: cannot be read")


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert read(lines(tmp_path)) == []
