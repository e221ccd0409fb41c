"""``qwenft prepare``: text records → ``qwen_dataset.pt``.

A line of the JSONL input is ``{"prompt": …, "response": …}`` or ``{"messages": [{"role": …,
"content": …}, …]}``; messages go through the tokenizer's own chat template. The output is what the
tutorial's script reads: ``{"train": [{"input_ids", "attention_mask"}, …], "validation": …}`` with
rows of one fixed length.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenft_trainer.data import IGNORED
from qwenft_trainer.failure import DatasetInvalid, ModelInvalid, TrainerError

LEAST_LENGTH = 2
"""Tokens a row: one that predicts and one that is predicted."""
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One record as text; ``prompt`` is the part that a masked run does not train on."""

    prompt: str
    response: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How texts become rows."""

    length: int
    mask_prompt: bool = False


def main(argv: Sequence[str]) -> int:
    """Run the command; return 0, 65 (bad records or options), 66 (bad tokenizer) or 70."""
    args = _parser().parse_args(argv)
    try:
        if args.stdlib_sample is not None:
            from qwenft_trainer import stdlib_sample  # noqa: PLC0415 - brings transformers

            stdlib_sample.write(args.stdlib_sample)
        else:
            _prepare(args)
    except TrainerError as error:
        print(f"qwenft prepare: {error}", file=sys.stderr)  # noqa: T201 - a command line
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qwenft prepare", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, metavar="FILE", help="training records, JSONL")
    source.add_argument(
        "--stdlib-sample",
        type=Path,
        metavar="DIR",
        help="write the demo's data instead: records, dataset and a small model to train on them",
    )
    parser.add_argument("--validation", type=Path, metavar="FILE", help="held-out records, JSONL")
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="hold out this part of --input instead (the last records)",
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="model directory or hub name")
    parser.add_argument("--output", type=Path, default=Path("qwen_dataset.pt"), metavar="FILE")
    parser.add_argument("--length", type=int, default=1024, help="tokens a row, padding included")
    parser.add_argument("--mask-prompt", action="store_true", help="train on responses only")
    return parser


def _prepare(args: argparse.Namespace) -> None:
    if not args.tokenizer:
        raise DatasetInvalid("--tokenizer is missing: the model's directory or hub name")
    if not 0 <= args.validation_fraction < 1:
        raise DatasetInvalid("--validation-fraction must be at least 0 and below 1")
    if args.length < LEAST_LENGTH:
        raise DatasetInvalid(f"--length must be at least {LEAST_LENGTH}, not {args.length}")
    tokenizer = load_tokenizer(args.tokenizer)
    options = Options(length=args.length, mask_prompt=args.mask_prompt)
    train = list(read(args.input, tokenizer))
    held_out = list(read(args.validation, tokenizer)) if args.validation else []
    if args.validation and not held_out:
        raise DatasetInvalid(f"{args.validation}: no record is there to validate on")
    if args.validation_fraction and not held_out:
        cut = len(train) - max(1, round(len(train) * args.validation_fraction))
        train, held_out = train[:cut], train[cut:]
    if not train:
        raise DatasetInvalid(f"{args.input}: no record is left to train on")
    save(args.output, train=train, validation=held_out, tokenizer=tokenizer, options=options)


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer; raises :class:`ModelInvalid` naming it."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds; --help needs none

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # noqa: BLE001 - damaged files raise all kinds
        raise ModelInvalid(f"{name}: no tokenizer can be loaded: {error}") from None


def read(path: Path, tokenizer: Any) -> Iterator[Text]:
    """Yield a file's records; raises :class:`DatasetInvalid` naming file and line."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _text(line, tokenizer, where=f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetInvalid(f"{path}: cannot be read: {error}") from None


def save(
    path: Path,
    *,
    train: Sequence[Text],
    validation: Sequence[Text],
    tokenizer: Any,
    options: Options,
) -> None:
    """Tokenize the records and write the dataset file; say how many were cut to the length."""
    content = {"train": rows(train, tokenizer, options)}
    if validation:
        content["validation"] = rows(validation, tokenizer, options)
    _write(path, content)
    for name, split in content.items():
        full = sum(bool(row["attention_mask"][-1]) for row in split)
        line = f"{path}: {name}: {len(split)} records of {options.length} tokens, {full} filled"
        print(line)  # noqa: T201 - a command line


def _write(path: Path, content: Mapping[str, Any]) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        raise TrainerError(f"{path}: cannot be written: {error}") from None


def rows(texts: Sequence[Text], tokenizer: Any, options: Options) -> list[dict[str, Tensor]]:
    """Tokenize and pad at the right; each row is a view of one tensor, so the file loads fast."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.full((len(texts), options.length), pad if pad is not None else 0)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    prompts = _encode([text.prompt for text in texts], tokenizer)
    wholes = _encode([text.prompt + text.response for text in texts], tokenizer)
    for index, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True)):
        kept = torch.tensor(whole[: options.length])
        ids[index, : len(kept)] = kept
        mask[index, : len(kept)] = 1
        start = _common(prompt, whole) if options.mask_prompt else 0
        labels[index, start : len(kept)] = kept[start:]
    columns = {"input_ids": ids, "attention_mask": mask}
    if options.mask_prompt:
        columns["labels"] = labels
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _encode(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    # Special tokens stand in the text where they belong; none is added on top.
    encoded: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return encoded


def _common(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """Count the leading tokens that are the prompt's alone: a token may span the border."""
    pairs = zip(prompt, whole, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt), len(whole)))


def _text(line: str, tokenizer: Any, *, where: str) -> Text:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetInvalid(f"{where}: is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DatasetInvalid(f"{where}: must be an object, not {type(record).__name__}")
    if "messages" in record:
        return _chat(record["messages"], tokenizer, where=where)
    prompt = _string(record, "prompt", where=where)
    response = _string(record, "response", where=where)
    return Text(prompt=f"{prompt}\n", response=response + (tokenizer.eos_token or ""))


def _string(record: Mapping[str, Any], key: str, *, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        found = f"has no {key}" if key not in record else f"{key} is no string"
        raise DatasetInvalid(f'{where}: {found}; needed are "prompt" and "response", or "messages"')
    _check_characters(value, f"{where}: {key}")
    return value


def _check_characters(text: str, where: str) -> None:
    """Refuse half of a character, which JSON can spell and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DatasetInvalid(
            f"{where} holds half of a surrogate pair at character {error.start}"
        ) from None


def _chat(messages: Any, tokenizer: Any, *, where: str) -> Text:
    if not isinstance(messages, list) or not messages:
        raise DatasetInvalid(f"{where}: messages must be a list of at least one message")
    for index, message in enumerate(messages):
        _check_message(message, where=f"{where}: messages[{index}]")
    if not getattr(tokenizer, "chat_template", None):
        raise DatasetInvalid(f"{where}: the tokenizer has no chat template for messages")
    try:
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        prompt = _chat_prompt(messages, tokenizer)
    except Exception as error:  # noqa: BLE001 - templates raise whatever their author chose
        raise DatasetInvalid(f"{where}: the chat template refuses it: {error}") from None
    return (
        Text(prompt=prompt, response=whole.removeprefix(prompt))
        if (whole.startswith(prompt))
        else Text(prompt="", response=whole)
    )


def _chat_prompt(messages: list[Any], tokenizer: Any) -> str:
    """Return the text before the last answer; all of it is context of a masked run."""
    if messages[-1]["role"] != "assistant":
        return ""
    before = messages[:-1]
    text = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
    return str(text)


def _check_message(message: Any, *, where: str) -> None:
    if not isinstance(message, dict):
        raise DatasetInvalid(f"{where}: must be an object, not {type(message).__name__}")
    if message.get("role") not in ROLES:
        raise DatasetInvalid(f"{where}: role {message.get('role')!r} is none of {', '.join(ROLES)}")
    if not isinstance(message.get("content"), str):
        raise DatasetInvalid(f"{where}: content must be a string")
    _check_characters(message["content"], f"{where}: content")
