"""Lines of JSON → text, prompt and answer told apart; a bad one is refused by file and line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from launching.tokenizer import tokenizer
from qwenft_trainer import prepare
from qwenft_trainer.failure import DatasetInvalid

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


def read(path: Path, reader: Any = None) -> list[prepare.Text]:
    return list(prepare.read(path, reader or tokenizer()))


def refused(path: Path, reader: Any = None) -> str:
    with pytest.raises(DatasetInvalid) as caught:
        read(path, reader)
    return str(caught.value)


def with_template(template: str | None) -> Any:
    changed = copy.deepcopy(tokenizer())
    changed.chat_template = template
    return changed


def test_prompt_and_response_are_joined_by_a_newline_and_closed_by_the_end_token(
    tmp_path: Path,
) -> None:
    (text,) = read(lines(tmp_path, GOOD))
    assert text.prompt == "def add(a, b)\n"
    assert text.response == "Return the sum.<|endoftext|>"


def test_a_tokenizer_without_an_end_token_adds_none(tmp_path: Path) -> None:
    plain = copy.deepcopy(tokenizer())
    plain.eos_token = None
    (text,) = read(lines(tmp_path, GOOD), plain)
    assert text.response == "Return the sum."


def test_lines_keep_their_order_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    records = [GOOD | {"prompt": str(number)} for number in range(5)]
    path = lines(tmp_path, records[0], "", *records[1:3], "   ", *records[3:], "")
    assert [text.prompt for text in read(path)] == [f"{number}\n" for number in range(5)]


def test_columns_beside_prompt_and_response_are_left_aside(tmp_path: Path) -> None:
    assert read(lines(tmp_path, GOOD | {"id": 7})) == read(lines(tmp_path, GOOD))


def test_text_of_any_script_is_kept(tmp_path: Path) -> None:
    (text,) = read(lines(tmp_path, {"prompt": "größe 大きさ 🙂", "response": "\u2028\t"}))
    assert text.prompt == "größe 大きさ 🙂\n"
    assert text.response.startswith("\u2028\t")


def test_messages_go_through_the_tokenizers_own_template(tmp_path: Path) -> None:
    (text,) = read(lines(tmp_path, {"messages": [QUESTION, ANSWER]}))
    assert text.prompt == (
        "<|im_start|>user\nWhat is two and two?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text.response == "Four.<|im_end|>\n"


def test_all_but_the_last_answer_is_the_prompt_of_a_conversation(tmp_path: Path) -> None:
    again = {"role": "user", "content": "And three?"}
    (text,) = read(lines(tmp_path, {"messages": [QUESTION, ANSWER, again, ANSWER]}))
    assert text.prompt.count("Four.") == 1
    assert text.response == "Four.<|im_end|>\n"


def test_a_conversation_that_ends_with_a_question_is_trained_as_a_whole(tmp_path: Path) -> None:
    (text,) = read(lines(tmp_path, {"messages": [QUESTION]}))
    assert text.prompt == ""
    assert text.response.startswith("<|im_start|>user\n")


def test_a_template_that_rewrites_what_went_before_leaves_no_prompt_apart(tmp_path: Path) -> None:
    reader = with_template(
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    (text,) = read(lines(tmp_path, {"messages": [QUESTION, ANSWER]}), reader)
    assert text.prompt == ""
    assert text.response == "2What is two and two?Four."


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("nonsense", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must be an object, not list"),
        ('"text"', "must be an object, not str"),
        ("null", "must be an object, not NoneType"),
        ({"response": "x"}, 'has no prompt; needed are "prompt" and "response", or "messages"'),
        ({"prompt": "x"}, 'has no response; needed are "prompt" and "response", or "messages"'),
        ({"prompt": 5, "response": "x"}, "prompt is no string"),
        ({"prompt": "x", "response": None}, "response is no string"),
        ({"prompt": "x", "response": ["y"]}, "response is no string"),
        ('{"prompt": "\\ud800", "response": "x"}', "prompt holds half of a surrogate pair"),
        (
            '{"messages": [{"role": "user", "content": "ab\\udc00"}]}',
            "messages[0]: content holds half of a surrogate pair at character 2",
        ),
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
    assert sentence.startswith(f"{path}:3: ")
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
