"""A small tokenizer that is trained on the spot, as the demo's is."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from qwenft_trainer.stdlib_sample import train_tokenizer

TEXTS = (
    "def add(a, b)\nReturn the sum of two numbers.",
    "def first(items)\nReturn the first item of a list, or None where it is empty.",
    "What is the capital of France? Paris. What is two and two? Four.",
    "system user assistant tool messages answer question hello world",
)


@functools.cache
def tokenizer() -> Any:
    """Return it; with a chat template, an end-of-text token and padding by that token."""
    return train_tokenizer(TEXTS * 20)


def saved(folder: Path) -> Path:
    """Write it as a model directory."""
    tokenizer().save_pretrained(folder)
    return folder
