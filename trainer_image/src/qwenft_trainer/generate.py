"""A few words from the model just trained, so that a person sees what came of it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer

from qwenft_trainer.batch import Batch
from qwenft_trainer.data import Dataset
from qwenft_trainer.loss import IGNORED
from qwenft_trainer.stages import Stages

NEW_TOKENS = 32
VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def greedy(stages: Stages, prompt: Sequence[int], *, count: int, end: int | None) -> list[int]:
    """Continue ``prompt`` by the likeliest tokens, at most ``count``, up to ``end``. Collective.

    No cache of keys and values is kept: it takes ``count`` forward passes.
    """
    tokens = list(prompt)
    for _ in range(count):
        row = torch.tensor([tokens])
        logits = stages.logits(Batch.from_rows(row, torch.full_like(row, IGNORED)))
        tokens.append(int(logits[0, -1].argmax()))
        if tokens[-1] == end:
            break
    return tokens[len(prompt) :]


def read_tokenizer(directory: Path) -> AutoTokenizer | None:
    """Load the directory's tokenizer, or return None if it has none."""
    # Without any of its files, transformers makes up an empty tokenizer.
    if not any((directory / name).is_file() for name in VOCABULARIES):
        return None
    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError, KeyError):
        return None


def end_token(config: object) -> int | None:
    """Return the token that ends a text, if the config names one."""
    end = getattr(config, "eos_token_id", None)
    return end[0] if isinstance(end, list) else end


def speak(stages: Stages, dataset: Dataset, directory: Path) -> dict[str, str] | None:
    """Continue the first sample's first half, as text; None without a tokenizer. Collective."""
    tokenizer = read_tokenizer(directory)
    if tokenizer is None:
        return None
    tokens, _ = dataset.rows([0])
    prompt = tokens[0][: min(64, max(1, len(tokens[0]) // 2))].tolist()
    answer = greedy(stages, prompt, count=NEW_TOKENS, end=end_token(stages.config))
    return {"prompt": tokenizer.decode(prompt), "continuation": tokenizer.decode(answer)}
