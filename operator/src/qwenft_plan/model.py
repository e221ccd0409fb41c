"""What a decoder-only transformer costs: parameters, floating-point operations, saved bytes.

`ModelShape` holds only numbers, so everything that the planner says about a model follows from
the keys of a Hugging Face `config.json`. Parameter counts are exact for the Qwen and Llama
families (Qwen1.5-7B: 7,721,324,544) and checked against the published sizes in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from qwenft_plan.errors import SpecError
from qwenft_plan.families import KNOWN, MIXTURES

__all__ = ["ModelShape"]

_MIXTURE = (
    "is a mixture-of-experts model; this planner covers dense models only, because its memory and "
    "speed would be mis-estimated: choose a dense Qwen1.5, Qwen2, Qwen2.5 or Qwen3 model"
)
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")
_QKV_BIAS = frozenset({"qwen2"})
_SUPPORTED = ("qwen2", "qwen3", "llama", "mistral")


class _NamedModel(Protocol):
    """The part of `spec.model` that decides the shape."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def config(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """Sizes of one dense decoder, in elements.

    `gated` says whether the feed-forward block has a gate (three matrices, Qwen and Llama) or not
    (two, GPT). `affine_norms` adds a bias to each norm and each linear layer (GPT-2 style).
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    gated: bool = True
    affine_norms: bool = False
    max_positions: int = 32768

    @classmethod
    def known(cls, name: str) -> ModelShape:
        """Return the shape of a hub name such as `Qwen/Qwen1.5-7B` (a `-Chat` suffix is fine).

        Raises `SpecError` at `model.name` for unknown names and for mixture-of-experts models.
        """
        key = _plain(name)
        if key in MIXTURES:
            raise SpecError("model.name", f"{name} {_MIXTURE}")
        row = KNOWN.get(key)
        if row is None:
            close = ", ".join(sorted(KNOWN)[:4])
            message = (
                f"unknown model {name!r}: give model.config with the keys of its config.json, "
                f"or one of the {len(KNOWN)} known names ({close}, …)"
            )
            raise SpecError("model.name", message)
        return cls(name=name, **row)

    @classmethod
    def from_config(
        cls, config: Mapping[str, object], *, name: str = "", path: str = "model.config"
    ) -> ModelShape:
        """Return the shape that a `config.json` of Qwen2, Qwen3, Llama or Mistral describes.

        `path` prefixes the field in a `SpecError`: missing key, wrong type, experts, other family.
        """
        kind = str(config.get("model_type", "qwen2")).lower()
        _refuse_mixture(config, kind, name or kind, path)
        hidden = _count(config, "hidden_size", path)
        heads = _count(config, "num_attention_heads", path)
        kv_heads = _count(config, "num_key_value_heads", path, default=heads)
        if heads % kv_heads:
            message = f"{heads} attention heads are not divisible by {kv_heads} key/value heads"
            raise SpecError(f"{path}.num_key_value_heads", message)
        head_dim = _head_dim(config, hidden, heads, kind, path)
        return cls(
            name=name or kind,
            hidden=hidden,
            layers=_count(config, "num_hidden_layers", path),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            ffn=_count(config, "intermediate_size", path),
            vocab=_count(config, "vocab_size", path),
            tied=_flag(config, "tie_word_embeddings", path),
            qkv_bias=kind in _QKV_BIAS or config.get("attention_bias") is True,
            qk_norm=kind == "qwen3",
            max_positions=_count(config, "max_position_embeddings", path, default=32768),
        )

    @classmethod
    def for_spec(cls, model: _NamedModel) -> ModelShape:
        """Return the shape for `spec.model`: its config where given, else the known hub name."""
        name = model.name or model.path
        if model.config:
            return cls.from_config(model.config, name=name, path="spec.model.config")
        if model.name:
            try:
                return cls.known(model.name)
            except SpecError as error:
                raise SpecError("spec.model.name", error.message) from None
        if _plain(name) in KNOWN:
            return cls.known(name)
        message = f"the shape of {name!r} is not known: give the keys of its config.json here"
        raise SpecError("spec.model.config", message)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one transformer block."""
        return self.layer_matrix_parameters + self._layer_vectors()

    @property
    def layer_matrix_parameters(self) -> int:
        """Parameters of one block's weight matrices (the ones that multiply)."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return attention + self.hidden * self.ffn * (3 if self.gated else 2)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of one vocabulary matrix."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, a tied vocabulary matrix counted once."""
        vocabulary = self.embedding_parameters * (1 if self.tied else 2)
        final_norm = self.hidden * (2 if self.affine_norms else 1)
        return self.layers * self.layer_parameters + vocabulary + final_norm

    @property
    def attention_width(self) -> int:
        """Columns of the query projection: heads × head dimension (not always `hidden`)."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Columns of the key (or value) projection."""
        return self.kv_heads * self.head_dim

    def flops_per_token(self, sequence_length: int) -> float:
        """Training FLOPs per token: 6 per multiplying parameter plus causal attention.

        Causal masking halves the attention term; recomputation is not counted (model FLOPs).
        """
        matrices = self.layers * self.layer_matrix_parameters + self.embedding_parameters
        attention = 12 * self.layers * self.attention_width * sequence_length / 2
        return 6.0 * matrices + attention

    def _layer_vectors(self) -> int:
        norms = 2 * self.hidden * (2 if self.affine_norms else 1)
        bias = self.attention_width + 2 * self.kv_width if self.qkv_bias else 0
        if self.affine_norms:
            bias = 3 * self.attention_width + self.hidden + self.ffn + self.hidden
        return norms + bias + (2 * self.head_dim if self.qk_norm else 0)


def _plain(name: str) -> str:
    """Hub name or directory → lookup key: `Qwen/Qwen1.5-7B-Chat` → `qwen1.5-7b`."""
    key = name.rstrip("/").rsplit("/", 1)[-1].lower()
    for suffix in ("-1m", "-chat", "-instruct", "-base"):
        key = key.removesuffix(suffix)
    # Qwen2.5-Coder-7B and Qwen2.5-Math-7B have the shape of Qwen2.5-7B.
    return key.replace("-coder", "").replace("-math", "")


def _refuse_mixture(config: Mapping[str, object], kind: str, name: str, path: str) -> None:
    if "moe" in kind:
        raise SpecError(f"{path}.model_type", f"{name} {_MIXTURE}")
    for key in _EXPERT_KEYS:
        value = config.get(key)
        if isinstance(value, int) and value > 1:
            raise SpecError(f"{path}.{key}", f"{name} {_MIXTURE}")
    if kind not in _SUPPORTED:
        message = f"unsupported model_type {kind!r}: expected one of {', '.join(_SUPPORTED)}"
        raise SpecError(f"{path}.model_type", message)


def _head_dim(config: Mapping[str, object], hidden: int, heads: int, kind: str, path: str) -> int:
    if config.get("head_dim") is not None:
        return _count(config, "head_dim", path)
    if kind == "qwen3":
        return 128  # the default of Qwen3's configuration; often not hidden / heads
    if hidden % heads:
        message = f"hidden_size {hidden} is not divisible by {heads} heads and head_dim is absent"
        raise SpecError(f"{path}.head_dim", message)
    return hidden // heads


def _count(config: Mapping[str, object], key: str, path: str, *, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        found = "absent" if value is None else repr(value)
        raise SpecError(f"{path}.{key}", f"expected a whole number of at least 1, found {found}")
    return value


def _flag(config: Mapping[str, object], key: str, path: str) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise SpecError(f"{path}.{key}", f"expected true or false, found {value!r}")
    return value is True
