"""The model of a table's row: its dimensions, else its name, else its number of parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from qwenft_plan.errors import SpecError
from qwenft_plan.model import ModelShape

__all__ = ["row_model"]

_MIXTURE = re.compile(r"moe|mixtral|deepseek[-_ ]?v?[23]|\d+x\d+b|-a\d+(\.\d+)?b|gpt-oss|grok|dbrx")
_GATELESS = re.compile(r"gpt|mpt|megatron|turing|opt-|bloom|nemotron|falcon")
_CUT = re.compile(r"\((\d+) layers?\)|truncated to (\d+) layers?")
_MOST = 10_000_000

# hidden, layers, heads, key/value heads, feed-forward, vocabulary: dense models that tables name
# without their dimensions (their `config.json`, or for Nemotron-4 its technical report).
_NAMED: tuple[tuple[str, tuple[int, int, int, int, int, int]], ...] = (
    (r"llama.?-?3(?!\d).*405b", (16384, 126, 128, 8, 53248, 128256)),
    (r"llama.?-?3(?!\d).*70b", (8192, 80, 64, 8, 28672, 128256)),
    (r"llama.?-?3(?!\d).*8b", (4096, 32, 32, 8, 14336, 128256)),
    (r"llama.?-?3(?!\d).*3b", (3072, 28, 24, 8, 8192, 128256)),
    (r"llama.?-?3(?!\d).*1b", (2048, 16, 32, 8, 8192, 128256)),
    (r"llama.*70b", (8192, 80, 64, 8, 28672, 32000)),
    (r"llama.*65b", (8192, 80, 64, 64, 22016, 32000)),
    (r"llama.*34b", (8192, 48, 64, 8, 22016, 32000)),
    (r"llama.*33b|llama.*30b", (6656, 60, 52, 52, 17920, 32000)),
    (r"llama.*13b", (5120, 40, 40, 40, 13824, 32000)),
    (r"llama.*7b", (4096, 32, 32, 32, 11008, 32000)),
    (r"mistral.*7b", (4096, 32, 32, 8, 14336, 32000)),
    (r"internlm2?.*20b", (5120, 60, 40, 40, 13824, 103168)),
    (r"internlm.*7b", (4096, 32, 32, 32, 11008, 103168)),
    (r"nemotron.*340b", (18432, 96, 96, 8, 73728, 256000)),
    (r"nemotron.*15b", (6144, 32, 48, 8, 24576, 256000)),
    (r"gemma.*7b", (3072, 28, 16, 16, 24576, 256000)),
    (r"gpt-?3.*175b", (12288, 96, 96, 96, 49152, 51200)),
)


def row_model(row: Mapping[str, Any]) -> ModelShape:
    """Return the dense model of a row; raises `SpecError` naming the column.

    Mixtures of experts are refused. `gated` and `tied` are not columns: the combination whose
    number of parameters is nearest to `params_b` is taken.
    """
    name = str(row.get("model") or "")
    experts = _number(row, "ep")
    if _MIXTURE.search(name.lower()) or (experts is not None and experts > 1):
        raise SpecError("model", f"{name} is a mixture of experts; only dense models are estimated")
    size = _billions(row)
    dimensions = _dimensions(row)
    if dimensions is None:
        dimensions = _by_name(name)
    if dimensions is None:
        known = _known(name)
        if known is not None:
            return known
        if size is None:
            raise SpecError("hidden", f"the dimensions of {name!r} are neither given nor known")
        dimensions = _by_size(size)
    return _fit(name, dimensions, size)


def _known(name: str) -> ModelShape | None:
    try:
        return ModelShape.known(name.replace(" ", "-"))
    except SpecError:
        return None


def _dimensions(row: Mapping[str, Any]) -> tuple[int, int, int, int, int, int] | None:
    hidden, layers = _number(row, "hidden"), _number(row, "layers")
    if hidden is None or layers is None:
        return None
    heads = _number(row, "heads") or max(1, hidden // 128)
    kv_heads = _number(row, "kv_heads") or heads
    ffn = _number(row, "ffn") or 4 * hidden
    cut = _CUT.search(str(row.get("model") or "").lower())
    if cut is not None:
        layers = int(cut[1] or cut[2])
    return hidden, layers, heads, min(kv_heads, heads), ffn, _number(row, "vocab") or 50257


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


def _billions(row: Mapping[str, Any]) -> float | None:
    value = row.get("params_b")
    if value is None or value == "":
        return None
    try:
        size = float(value)
    except (TypeError, ValueError, OverflowError):
        size = math.nan
    if not 1e-6 < size < 1e5:  # noqa: PLR2004 - a thousand parameters to a hundred trillion
        raise SpecError("params_b", f"expected billions of parameters, found {value!r}")
    return size


def _number(row: Mapping[str, Any], key: str) -> int | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    # As `51200(paper)` in tables; `4k` and `1,024` are no numbers here.
    digits = re.match(r"\d+(?:\.0+)?(?=[\s(]|$)", value.strip()) if isinstance(value, str) else None
    number = float(digits[0]) if digits else value
    good = isinstance(number, int | float) and not isinstance(number, bool)
    if not good or not 1 <= number <= _MOST or number != int(number):
        raise SpecError(key, f"expected a whole number of at least 1, found {value!r}")
    return int(number)
