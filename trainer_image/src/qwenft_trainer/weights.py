"""Filling a stage that was built on the meta device: from a checkpoint or from a seed.

Each rank reads only the slices that it keeps. Random weights are drawn parameter by parameter from
a generator seeded with the parameter's *name*, so every plan starts from the same model.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from transformers import PretrainedConfig

from qwenft_trainer.adapters import draw_adapter, hub_name, is_adapter
from qwenft_trainer.failure import ModelInvalid
from qwenft_trainer.model import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A directory with Hugging Face's safetensors files; adapters are drawn from ``seed``."""

    path: Path
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """Random weights, the same for every plan."""

    seed: int


Source = Checkpoint | Fresh


def fill(parts: Sequence[Stage], source: Source, config: PretrainedConfig) -> None:
    """Give every parameter its value. Collective.

    Raises :class:`ModelInvalid` if the checkpoint lacks a parameter or has one of another shape.
    """
    deviation = float(config.initializer_range)
    if isinstance(source, Checkpoint):
        _read(parts, source.path)
    for part in parts:
        drawn = isinstance(source, Fresh)
        _draw(part, source.seed, deviation, only_adapters=not drawn)


def parameters_of(parts: Sequence[Stage]) -> dict[str, nn.Parameter]:
    """Return the parameters by their Hugging Face names; a tied head is the embedding."""
    return {hub_name(name): value for part in parts for name, value in part.named_parameters()}


def _read(parts: Sequence[Stage], directory: Path) -> None:
    wanted: dict[str, Tensor] = {
        name: value.detach() for name, value in parameters_of(parts).items() if not is_adapter(name)
    }
    if not any(directory.glob("*.safetensors")):
        raise ModelInvalid(f"{directory} holds no *.safetensors files; convert the model first")
    reader = HuggingFaceStorageReader(str(directory))
    try:
        found = reader.read_metadata().state_dict_metadata
    except (OSError, ValueError, KeyError) as error:
        raise ModelInvalid(f"the safetensors files in {directory} are damaged: {error}") from error
    _check(
        wanted,
        {name: meta.size for name, meta in found.items() if hasattr(meta, "size")},
        directory,
    )
    load(wanted, storage_reader=HuggingFaceStorageReader(str(directory)))


def _check(wanted: Mapping[str, Tensor], found: Mapping[str, torch.Size], where: Path) -> None:
    for name, value in wanted.items():
        if name not in found:
            raise ModelInvalid(f"{where} lacks the parameter {name}, which its config.json implies")
        if found[name] != value.shape:
            raise ModelInvalid(
                f"{where}: {name} has shape {list(found[name])}, but its config.json implies "
                f"{list(value.shape)}"
            )


def _draw(part: Stage, seed: int, deviation: float, *, only_adapters: bool) -> None:
    options = StateDictOptions(full_state_dict=True, strict=False)
    for name, value in part.named_parameters():
        if only_adapters and not is_adapter(name):
            continue
        full = random_value(hub_name(name), value.shape, seed=seed, deviation=deviation)
        set_model_state_dict(part, {name: full}, options=options)


def random_value(name: str, shape: torch.Size, *, seed: int, deviation: float) -> Tensor:
    """Draw as transformers' ``_init_weights`` does: normal matrices, zero biases, unit norms."""
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    if is_adapter(name):
        return draw_adapter(name, shape, generator)
    return torch.empty(shape).normal_(0.0, deviation, generator=generator)
