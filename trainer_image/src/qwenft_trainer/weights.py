"""Filling a stage that was built on the meta device: from a checkpoint or from a seed.

Each rank reads only the slices that it keeps. Random weights are drawn parameter by parameter from
a generator seeded with the parameter's *name*, so every plan starts from the same model.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PretrainedConfig

from qwenft_trainer.adapters import draw_adapter, hub_name, is_adapter
from qwenft_trainer.failure import ModelInvalid
from qwenft_trainer.fourbit import fill_packed, is_packed, packed_matrices
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
    drawn = isinstance(source, Fresh)
    into: Callable[[Mapping[str, Tensor]], None]
    if isinstance(source, Checkpoint):
        _read(parts, source.path)
        into = partial(_load, directory=source.path)
    else:
        into = partial(_draw_matrices, seed=source.seed, deviation=deviation)
    for part in parts:
        _draw(part, source.seed, deviation, only_adapters=not drawn)
        fill_packed(part, into)


def parameters_of(parts: Sequence[Stage]) -> dict[str, nn.Parameter]:
    """Return the parameters by their Hugging Face names; a tied head is the embedding."""
    return {hub_name(name): value for part in parts for name, value in part.named_parameters()}


def _read(parts: Sequence[Stage], directory: Path) -> None:
    wanted: dict[str, Tensor] = {
        name: value.detach()
        for name, value in parameters_of(parts).items()
        if not is_adapter(name) and not is_packed(name)
    }
    _check(
        {name: value.shape for name, value in wanted.items()} | _packed_shapes(parts),
        shapes_in(directory),
        directory,
    )
    load(wanted, storage_reader=HuggingFaceStorageReader(str(directory)))


def shapes_in(directory: Path) -> dict[str, torch.Size]:
    """Return the shape of every tensor in a model's directory, from the files' headers alone.

    Raises :class:`ModelInvalid` where there is no safetensors file or a damaged one.
    """
    if not any(directory.glob("*.safetensors")):
        raise ModelInvalid(f"{directory} holds no *.safetensors files; convert the model first")
    reader = HuggingFaceStorageReader(str(directory))
    try:
        found = reader.read_metadata().state_dict_metadata
    except Exception as error:  # a damaged header raises whatever its bytes lead to
        what = f"{type(error).__name__}: {error}"
        raise ModelInvalid(f"the safetensors files in {directory} are damaged: {what}") from error
    return {name: meta.size for name, meta in found.items() if hasattr(meta, "size")}


def _packed_shapes(parts: Sequence[Stage]) -> dict[str, torch.Size]:
    """Return what the checkpoint must have for the matrices that are packed."""
    return {
        hub_name(f"{name}.weight"): torch.Size((matrix.out_features, matrix.in_features))
        for part in parts
        for matrices in packed_matrices(part)
        for name, matrix in matrices.items()
    }


def _load(rooms: Mapping[str, Tensor], *, directory: Path) -> None:
    """Read some weights, each rank what it keeps of them, whatever the others read."""
    wanted = {hub_name(name): room for name, room in rooms.items()}
    load(wanted, storage_reader=HuggingFaceStorageReader(str(directory)), no_dist=True)


def _draw_matrices(rooms: Mapping[str, Tensor], *, seed: int, deviation: float) -> None:
    for name, room in rooms.items():
        full = random_value(hub_name(name), room.shape, seed=seed, deviation=deviation)
        full = full.to(room.device)
        if isinstance(room, DTensor):
            full = distribute_tensor(
                full, room.device_mesh, room.placements, src_data_rank=None
            )  # each rank takes its rows of what all have drawn
        room.copy_(full)


def _check(wanted: Mapping[str, torch.Size], found: Mapping[str, torch.Size], where: Path) -> None:
    for name, shape in wanted.items():
        if name not in found:
            raise ModelInvalid(f"{where} lacks the parameter {name}, which its config.json implies")
        if found[name] != shape:
            raise ModelInvalid(
                f"{where}: {name} has shape {list(found[name])}, but its config.json implies "
                f"{list(shape)}"
            )


def _draw(part: Stage, seed: int, deviation: float, *, only_adapters: bool) -> None:
    options = StateDictOptions(full_state_dict=True, strict=False)
    for name, value in part.named_parameters():
        if is_packed(name) or (only_adapters and not is_adapter(name)):
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
