"""Shapes of the dense Qwen models, keyed by the hub name's last part in lower case.

Sources: the `config.json` of each model and, for Qwen2, Qwen2.5 and Qwen3, torchtune's model
builders. Traps: the vocabulary is 152,064 from 14B up (from 7B up since Qwen2); Qwen1.5 has as many
key/value heads as heads except in 32B and 110B; in Qwen3 heads × 128 is often not `hidden`.
"""

from __future__ import annotations

from typing import TypedDict

__all__ = ["KNOWN", "MIXTURES", "KnownShape"]


class KnownShape(TypedDict):
    """Keyword arguments of `ModelShape` without its name."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    qkv_bias: bool
    qk_norm: bool


# hidden, layers, heads, key/value heads, feed-forward, vocabulary, tied
_QWEN2 = {
    "qwen1.5-0.5b": (1024, 24, 16, 16, 2816, 151936, True),
    "qwen1.5-1.8b": (2048, 24, 16, 16, 5504, 151936, False),
    "qwen1.5-4b": (2560, 40, 20, 20, 6912, 151936, False),
    "qwen1.5-7b": (4096, 32, 32, 32, 11008, 151936, False),
    "qwen1.5-14b": (5120, 40, 40, 40, 13696, 152064, False),
    "qwen1.5-32b": (5120, 64, 40, 8, 27392, 152064, False),
    "qwen1.5-72b": (8192, 80, 64, 64, 24576, 152064, False),
    "qwen1.5-110b": (8192, 80, 64, 8, 49152, 152064, False),
    "qwen2-0.5b": (896, 24, 14, 2, 4864, 151936, True),
    "qwen2-1.5b": (1536, 28, 12, 2, 8960, 151936, True),
    "qwen2-7b": (3584, 28, 28, 4, 18944, 152064, False),
    "qwen2-72b": (8192, 80, 64, 8, 29568, 152064, False),
    "qwen2.5-0.5b": (896, 24, 14, 2, 4864, 151936, True),
    "qwen2.5-1.5b": (1536, 28, 12, 2, 8960, 151936, True),
    "qwen2.5-3b": (2048, 36, 16, 2, 11008, 151936, True),
    "qwen2.5-7b": (3584, 28, 28, 4, 18944, 152064, False),
    "qwen2.5-14b": (5120, 48, 40, 8, 13824, 152064, False),
    "qwen2.5-32b": (5120, 64, 40, 8, 27648, 152064, False),
    "qwen2.5-72b": (8192, 80, 64, 8, 29568, 152064, False),
}

_QWEN3 = {
    "qwen3-0.6b": (1024, 28, 16, 8, 3072, 151936, True),
    "qwen3-1.7b": (2048, 28, 16, 8, 6144, 151936, True),
    "qwen3-4b": (2560, 36, 32, 8, 9728, 151936, True),
    "qwen3-8b": (4096, 36, 32, 8, 12288, 151936, False),
    "qwen3-14b": (5120, 40, 40, 8, 17408, 151936, False),
    "qwen3-32b": (5120, 64, 64, 8, 25600, 151936, False),
}

MIXTURES = frozenset(
    {
        "qwen1.5-moe-a2.7b",
        "qwen2-57b-a14b",
        "qwen3-30b-a3b",
        "qwen3-235b-a22b",
        "qwen3-next-80b-a3b",
    }
)
"""Mixture-of-experts relatives, known only so that they can be refused with a sentence."""


def _shape(row: tuple[int, int, int, int, int, int, bool], *, qwen3: bool) -> KnownShape:
    hidden, layers, heads, kv_heads, ffn, vocab, tied = row
    return KnownShape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128 if qwen3 else hidden // heads,
        ffn=ffn,
        vocab=vocab,
        tied=tied,
        qkv_bias=not qwen3,
        qk_norm=qwen3,
    )


KNOWN: dict[str, KnownShape] = {
    **{name: _shape(row, qwen3=False) for name, row in _QWEN2.items()},
    **{name: _shape(row, qwen3=True) for name, row in _QWEN3.items()},
}
"""Lookup key → shape."""
