"""The shapes that records of text come in, each turned into one text with its answers marked.

A shape is told by the keys of a record:

=========  ==============================================================================
prompt     ``prompt``, ``response``
messages   ``messages``: a list of ``{"role", "content"}``
sharegpt   ``conversations``: a list of ``{"from": human | gpt | system, "value"}``
alpaca     ``instruction``, ``output``; ``input``, ``system`` and ``history`` if there
tokens     ``input_ids`` that were tokenized before; ``attention_mask`` and ``labels`` if there
=========  ==============================================================================

Conversations go through the tokenizer's own chat template, Alpaca's records too where the
tokenizer has one. No torch is imported here: worker processes read texts only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHAPES: Mapping[str, tuple[str, ...]] = {
    "tokens": ("input_ids",),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt": ("prompt", "response"),
    "alpaca": ("instruction", "output"),
}
"""Each shape's keys. A record has the first shape whose keys it has."""
ROLES = ("system", "user", "assistant", "tool")
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
"""ShareGPT's names of who speaks, and the roles that chat templates know."""


class BadRecordError(ValueError):
    """What is wrong with a record; who knows its file and line adds them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One record as text; ``answers`` are spans of characters, [begin, end), to be trained.

    Where a run trains on everything, ``answers`` is one span over the whole text.
    """

    content: str
    answers: tuple[tuple[int, int], ...]


def shape_of(record: Mapping[str, Any]) -> str:
    """Tell a record's shape by its keys; raises :class:`BadRecordError` listing the shapes."""
    for shape, keys in SHAPES.items():
        if all(key in record for key in keys):
            return shape
    known = "; ".join(f"{shape}: {', '.join(keys)}" for shape, keys in SHAPES.items())
    found = ", ".join(map(str, record)) or "none"
    raise BadRecordError(f"its keys ({found}) fit no known shape; shapes and their keys: {known}")


def text_of(
    record: object, tokenizer: Any, *, shape: str | None = None, mask_prompt: bool = False
) -> Text:
    """Return a record's text, its answers marked if ``mask_prompt``.

    ``shape`` None: told by the keys. Raises :class:`BadRecordError`.
    """
    if not isinstance(record, Mapping):
        raise BadRecordError(f"must be an object, not {type(record).__name__}")
    shape = shape or shape_of(record)
    if tokenizer is None:
        raise BadRecordError("--tokenizer is missing: the model's directory or hub name")
    if shape == "prompt":
        text = _pair(_string(record, "prompt"), _string(record, "response"), tokenizer)
    elif shape == "alpaca" and not _has_template(tokenizer):
        text = _pair(_plain_alpaca(record), _string(record, "output"), tokenizer)
    else:
        text = _chat(_MESSAGES[shape](record), tokenizer, mark=mask_prompt)
    return text if mask_prompt else Text(content=text.content, answers=((0, len(text.content)),))


def _pair(prompt: str, response: str, tokenizer: Any) -> Text:
    before = f"{prompt}\n"
    content = before + response + (tokenizer.eos_token or "")
    return Text(content=content, answers=((len(before), len(content)),))


def _plain_alpaca(record: Mapping[str, Any]) -> str:
    if record.get("history") or record.get("system"):
        raise BadRecordError("history and system need a chat template, and the tokenizer has none")
    return "\n".join(filter(None, (_string(record, "instruction"), _optional(record, "input"))))


def _alpaca(record: Mapping[str, Any]) -> list[Any]:
    question = "\n".join(filter(None, (_string(record, "instruction"), _optional(record, "input"))))
    turns = [*_history(record), (question, _string(record, "output"))]
    system = _optional(record, "system")
    messages = [{"role": "system", "content": system}] if system else []
    for asked, answered in turns:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answered})
    return messages


def _history(record: Mapping[str, Any]) -> list[Any]:
    turns = record.get("history") or []
    pair = 2
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise BadRecordError("history must be a list of pairs")
    for index, turn in enumerate(turns):
        if isinstance(turn, str) or not isinstance(turn, Sequence) or len(turn) != pair:
            raise BadRecordError(f"history[{index}] must be a question and its answer")
    return [tuple(turn) for turn in turns]


def _sharegpt(record: Mapping[str, Any]) -> list[Any]:
    turns = _list(record, "conversations")
    messages = [_turn(turn, index) for index, turn in enumerate(turns)]
    system = _optional(record, "system")
    return [{"role": "system", "content": system}, *messages] if system else messages


def _turn(turn: Any, index: int) -> Any:
    where = f"conversations[{index}]"
    if not isinstance(turn, Mapping):
        raise BadRecordError(f"{where}: must be an object, not {type(turn).__name__}")
    if "from" not in turn and "role" in turn:
        return turn  # some files keep messages under ShareGPT's name
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise BadRecordError(f"{where}: from {speaker!r} is none of {', '.join(SPEAKERS)}")
    if not isinstance(turn.get("value"), str):
        raise BadRecordError(f"{where}: value must be a string")
    return {"role": SPEAKERS[speaker], "content": turn["value"]}


def _messages(record: Mapping[str, Any]) -> list[Any]:
    return _list(record, "messages")


_MESSAGES = {"messages": _messages, "sharegpt": _sharegpt, "alpaca": _alpaca}


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list) or not value:
        raise BadRecordError(f"{key} must be a list of at least one message")
    return value


def _string(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise BadRecordError(f"has no {key}" if key not in record else f"{key} is no string")
    _check_characters(value, key)
    return value


def _optional(record: Mapping[str, Any], key: str) -> str:
    return _string(record, key) if record.get(key) is not None else ""


def _check_characters(text: str, what: str) -> None:
    """Refuse half of a character, which JSON can spell and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError(
            f"{what} holds half of a surrogate pair at character {error.start}"
        ) from None


def _has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def _chat(messages: list[Any], tokenizer: Any, *, mark: bool) -> Text:
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    if not _has_template(tokenizer):
        raise BadRecordError("the tokenizer has no chat template for messages")
    # Parquet's columns give every message every key; a template must not see the empty ones.
    messages = [{k: v for k, v in message.items() if v is not None} for message in messages]
    try:
        content = str(tokenizer.apply_chat_template(messages, tokenize=False))
        answers = tuple(_answers(messages, content, tokenizer)) if mark else ()
    except Exception as error:  # noqa: BLE001 - templates raise whatever their author chose
        raise BadRecordError(f"the chat template refuses it: {error}") from None
    if mark and not answers:
        raise BadRecordError(
            "no answer can be told apart from its prompt: it has no assistant's message, or the "
            "chat template rewrites what went before; leave --mask-prompt out"
        )
    return Text(content=content, answers=answers)


def _answers(messages: list[Any], content: str, tokenizer: Any) -> Iterator[tuple[int, int]]:
    """Yield where the assistant's turns stand in the text, the token that ends a turn included."""
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index == 0:
            continue
        before = str(
            tokenizer.apply_chat_template(
                messages[:index], tokenize=False, add_generation_prompt=True
            )
        )
        after = content
        if index + 1 < len(messages):
            after = str(tokenizer.apply_chat_template(messages[: index + 1], tokenize=False))
        # A template that drops earlier thoughts leaves earlier turns different: context only.
        if content.startswith(after) and after.startswith(before):
            yield len(before), len(after)


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, Mapping):
        raise BadRecordError(f"{where}: must be an object, not {type(message).__name__}")
    if message.get("role") not in ROLES:
        known = ", ".join(ROLES)
        raise BadRecordError(f"{where}: role {message.get('role')!r} is none of {known}")
    if not isinstance(message.get("content"), str):
        raise BadRecordError(f"{where}: content must be a string")
    _check_characters(message["content"], f"{where}: content")
