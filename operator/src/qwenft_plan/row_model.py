"""The model of a table's row: its dimensions, else its name, else its number of parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qwenft_plan.errors import SpecError
from qwenft_plan.model import ModelShape
from qwenft_plan.row_cells import billions, count, text

__all__ = ["row_model"]

_MIXTURE = re.compile(
    r"moe|mixtral|deepseek[-_ ]?v?[23]|deepseek[-_ ]?r1(?!.*distill)|\d+x\d+b|-a\d+(\.\d+)?b|"
    r"gpt-oss|grok|dbrx|llama[-_ ]?4|scout|maverick|\b\d+e\b|kimi|jamba|arctic"
)
_GATELESS = re.compile(r"gpt|mpt|megatron|turing|opt-|bloom|nemotron|falcon")
_OTHER_SIGHTS = re.compile(r"vision|[-_ ](?:vl|omni|audio)\b|llava")
_CUT = re.compile(r"\((\d+) layers?\)|truncated to (\d+) layers?")

# hidden, layers, heads, key/value heads, feed-forward, vocabulary: dense models that tables name
# without their dimensions (their `config.json`, or for Nemotron-4 its technical report).
_NAMED: tuple[tuple[str, tuple[int, int, int, int, int, int]], ...] = (
    (r"llama.?-?3(?!\d).*(?<![\d.])405b", (16384, 126, 128, 8, 53248, 128256)),
    (r"llama.?-?3(?!\d).*(?<![\d.])70b", (8192, 80, 64, 8, 28672, 128256)),
    (r"llama.?-?3(?!\d).*(?<![\d.])8b", (4096, 32, 32, 8, 14336, 128256)),
    (r"llama.?-?3(?!\d).*(?<![\d.])3b", (3072, 28, 24, 8, 8192, 128256)),
    (r"llama.?-?3(?!\d).*(?<![\d.])1b", (2048, 16, 32, 8, 8192, 128256)),
    (r"distill-llama.*70b", (8192, 80, 64, 8, 28672, 128256)),
    (r"distill-llama.*8b", (4096, 32, 32, 8, 14336, 128256)),
    (r"llama.*(?<![\d.])70b", (8192, 80, 64, 8, 28672, 32000)),
    (r"llama.*(?<![\d.])65b", (8192, 80, 64, 64, 22016, 32000)),
    (r"llama.*(?<![\d.])34b", (8192, 48, 64, 8, 22016, 32000)),
    (r"llama.*(?<![\d.])33b|llama.*(?<![\d.])30b", (6656, 60, 52, 52, 17920, 32000)),
    (r"(?:llama|vicuna|alpaca).*(?<![\d.])13b", (5120, 40, 40, 40, 13824, 32000)),
    (r"(?:llama|vicuna|alpaca).*(?<![\d.])7b", (4096, 32, 32, 32, 11008, 32000)),
    (r"mistral.*(?<![\d.])7b", (4096, 32, 32, 8, 14336, 32000)),
    (r"internlm2?.*(?<![\d.])20b", (5120, 60, 40, 40, 13824, 103168)),
    (r"internlm.*(?<![\d.])7b", (4096, 32, 32, 32, 11008, 103168)),
    (r"nemotron.*(?<![\d.])340b", (18432, 96, 96, 8, 73728, 256000)),
    (r"nemotron.*(?<![\d.])15b", (6144, 32, 48, 8, 24576, 256000)),
    (r"gemma.*(?<![\d.])7b", (3072, 28, 16, 16, 24576, 256000)),
    (r"gpt-?3.*(?<![\d.])175b", (12288, 96, 96, 96, 49152, 51200)),
)


def row_model(row: Mapping[str, Any]) -> ModelShape:
    """Return the dense model of a row; raises `SpecError` naming the column.

    Mixtures of experts are refused. `gated` and `tied` are not columns: the combination whose
    number of parameters is nearest to `params_b` is taken.
    """
    name = text(row, "model")
    experts = count(row, "ep")
    if _MIXTURE.search(name.lower()) or (experts is not None and experts > 1):
        raise SpecError("model", f"{name} is a mixture of experts; only dense models are estimated")
    size, dimensions = billions(row, "params_b"), _dimensions(row)
    if dimensions is not None:
        return _fit(name, _shortened(name, dimensions), size)
    if _OTHER_SIGHTS.search(name.lower()):
        raise SpecError(
            "model", f"{name} does not only read text; give its text model's dimensions"
        )
    known, dimensions = _known(name), _by_name(name)
    if known is not None:
        return replace(known, layers=_shortened(name, (known.hidden, known.layers))[1])
    if dimensions is None:
        if size is None:
            raise SpecError("hidden", f"the dimensions of {name!r} are neither given nor known")
        dimensions = _by_size(size)
    return _fit(name, _shortened(name, dimensions), size)


def _known(name: str) -> ModelShape | None:
    """Return the shape of a Qwen; the first generation's are those of Qwen1.5."""
    plain = re.sub(r"\(.*?\)|truncated.*", "", name).strip().replace(" ", "-")
    for spelled in (plain, re.sub(r"(?i)qwen-(?=\d)", "Qwen1.5-", plain)):
        try:
            return ModelShape.known(spelled)
        except SpecError:
            continue
    return None


def _dimensions(row: Mapping[str, Any]) -> tuple[int, ...] | None:
    hidden, layers = count(row, "hidden"), count(row, "layers")
    if hidden is None or layers is None:
        return None
    heads = count(row, "heads") or max(1, hidden // 128)
    kv_heads = count(row, "kv_heads") or heads
    ffn = count(row, "ffn") or 4 * hidden
    return hidden, layers, heads, min(kv_heads, heads), ffn, count(row, "vocab") or 50257


def _shortened(name: str, dimensions: tuple[int, ...]) -> tuple[int, ...]:
    """Return the dimensions with as many layers as the name says are left of a larger model."""
    cut = _CUT.search(name.lower())
    if cut is None:
        return dimensions
    return (dimensions[0], int(cut[1] or cut[2]), *dimensions[2:])


def _by_name(name: str) -> tuple[int, int, int, int, int, int] | None:
    lowered = name.lower()
    for pattern, dimensions in _NAMED:
        if re.search(pattern, lowered):
            return dimensions
    return None


def _by_size(size: float) -> tuple[int, int, int, int, int, int]:
    """Return a Llama-shaped model of `size` billion parameters: layers = hidden / 128."""
    hidden = max(256, 128 * round((128 * size * 1e9 / 12.5) ** (1 / 3) / 128))
    return hidden, hidden // 128, hidden // 128, hidden // 128, round(2.7 * hidden), 32000


def _fit(name: str, dimensions: tuple[int, ...], size: float | None) -> ModelShape:
    hidden, layers, heads, kv_heads, ffn, vocab = dimensions
    choices = [
        ModelShape(
            name=name,
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=max(1, hidden // heads),
            ffn=ffn,
            vocab=vocab,
            tied=tied,
            gated=gated,
        )
        for gated in (True, False)
        for tied in (False, True)
    ]
    if size is None:
        gateless = ffn == 4 * hidden or _GATELESS.search(name.lower()) is not None
        return choices[3] if gateless else choices[0]
    return min(choices, key=lambda shape: abs(math.log(shape.parameters / (size * 1e9))))
