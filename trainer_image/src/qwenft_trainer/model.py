"""A slice of a Qwen-like model under Hugging Face's parameter names.

The layers are transformers' own; only the ten lines around them (embedding, rotary tables, mask,
final norm, head) are written here, because a pipeline stage holds some layers and a
sequence-parallel rank holds some positions, and Hugging Face's forward derives positions and mask
from the hidden states it is given. Layers sit in a dictionary keyed by their *global* index, so
every stage's parameter names are the checkpoint's and nothing is ever renamed.

Shapes: B rows, T positions (the full sequence, also where hidden states are sharded), H hidden.
"""

import copy
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig

from qwenft_trainer.attention import NAME, mask_of
from qwenft_trainer.failure import ModelInvalid
from qwenft_trainer.loss import LossHead

FAMILIES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}
"""``model_type`` of a config, and the prefix of its classes in transformers."""
PLANNED_KEYS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)
"""Keys of ``config.json`` that a plan rests on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The three building blocks that a model type brings along."""

    layer: type[nn.Module]
    norm: type[nn.Module]
    rotary: type[nn.Module]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Which part of the model a stage holds."""

    layers: range
    first: bool
    last: bool


def read_config(directory: Path) -> PretrainedConfig:
    """Read ``config.json``; raises :class:`ModelInvalid` if it is missing or of another family."""
    if not (directory / "config.json").is_file():
        raise ModelInvalid(f"{directory} holds no config.json; it must be a Hugging Face directory")
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelInvalid(f"{directory / 'config.json'} cannot be read: {error}") from error
    return checked_config(config)


def checked_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return a copy prepared for training; raises :class:`ModelInvalid` if it can't be."""
    if config.model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelInvalid(f"model_type {config.model_type!r} is none of {known}")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ModelInvalid("sliding-window attention (use_sliding_window) is not supported")
    prepared = copy.deepcopy(config)
    prepared._attn_implementation = NAME  # noqa: SLF001 - transformers' own way to choose it
    prepared.use_cache = False
    return prepared


def check_config(config: PretrainedConfig, planned: Mapping[str, Any]) -> None:
    """Compare with the config that the plan was made for (keys as in ``config.json``).

    Only keys that decide what a plan computes and stores are compared. Raises
    :class:`ModelInvalid` naming the first one that differs.
    """
    for key in PLANNED_KEYS:
        actual = getattr(config, key, None)
        if key == "head_dim" and actual is None:
            actual = config.hidden_size // config.num_attention_heads
        if key in planned and actual != planned[key]:
            raise ModelInvalid(
                f"the plan was made for a model with {key} {planned[key]!r}, but the model's "
                f"config.json has {actual!r}; correct spec.model.config"
            )


def family_of(config: PretrainedConfig) -> Family:
    """Find the classes of a config's model type."""
    prefix = FAMILIES[config.model_type]
    name = f"transformers.models.{config.model_type}.modeling_{config.model_type}"
    module = importlib.import_module(name)
    return Family(
        layer=getattr(module, f"{prefix}DecoderLayer"),
        norm=getattr(module, f"{prefix}RMSNorm"),
        rotary=getattr(module, f"{prefix}RotaryEmbedding"),
    )


def slices(layers: int, stages: int) -> tuple[Slice, ...]:
    """Cut a model into stages of equal depth.

    A remainder goes to the middle: the first stage also holds the embedding, the last one the
    head, which costs as much as several layers.
    """
    depth, rest = divmod(layers, stages)
    start_of_rest = (stages - rest) // 2
    cuts, begin = [], 0
    for index in range(stages):
        end = begin + depth + (start_of_rest <= index < start_of_rest + rest)
        cuts.append(Slice(layers=range(begin, end), first=index == 0, last=index == stages - 1))
        begin = end
    return tuple(cuts)


class Stage(nn.Module):
    """Some consecutive layers, with the embedding before the first and the head after the last."""

    def __init__(
        self,
        config: PretrainedConfig,
        part: Slice,
        *,
        chunks: nn.LinearCrossEntropyOptions | None = None,
    ) -> None:
        super().__init__()
        family = family_of(config)
        self.part = part
        self.model: Any = nn.Module()  # a bare holder, so that names begin with `model.`
        if part.first:
            padding = getattr(config, "pad_token_id", None)
            self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding)
        self.model.layers = nn.ModuleDict({str(i): family.layer(config, i) for i in part.layers})
        self.model.rotary_emb = family.rotary(config)
        if part.last:
            self.model.norm = family.norm(config.hidden_size, eps=config.rms_norm_eps)
            self.lm_head = LossHead(config.hidden_size, config.vocab_size, chunks)
        self.tied = bool(config.tie_word_embeddings and part.first and part.last)
        self.tie()

    def tie(self) -> None:
        """Let the head use the embedding's weight again, after either was replaced."""
        if self.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def layers(self) -> Iterable[Any]:
        """Return the layers, in order."""
        return tuple(self.model.layers.values())

    def forward(
        self,
        inputs: Tensor,
        position_ids: Tensor,
        segments: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Run the slice.

        ``inputs``: token ids [B, T] for the first stage, hidden states for the others.
        Returns hidden states; after the last layer the sum of the cross-entropy over ``targets``
        as a tensor of shape [1], or logits [B, T, V] where there are no targets.
        """
        hidden = self.model.embed_tokens(inputs) if self.part.first else inputs
        positions = self.model.rotary_emb(hidden, position_ids)
        mask = None if segments is None else mask_of(segments, hidden.dtype)
        for layer in self.layers():
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=position_ids,
                position_embeddings=positions,
            )
        if not self.part.last:
            return hidden
        loss_or_logits: Tensor = self.lm_head(self.model.norm(hidden), targets)
        return loss_or_logits

    def reset_rotary(self, device: torch.device, config: PretrainedConfig) -> None:
        """Compute the rotary tables, which are in no checkpoint and are lost on the meta device."""
        with device:
            self.model.rotary_emb = family_of(config).rotary(config)


def layer_count(config: PretrainedConfig) -> int:
    """Return the number of decoder layers."""
    count: Any = config.num_hidden_layers
    return int(count)
