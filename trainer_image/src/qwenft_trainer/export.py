"""The finished model as a Hugging Face directory, written by all ranks together.

Tensors go out in parallel through torch's own writer and are put together into files of a few
gigabytes; configuration and tokenizer come from where the model came from. The directory appears
under its name only when it is whole.
"""

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint._consolidate_hf_safetensors import (
    consolidate_safetensors_files,
)
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save
from transformers import GenerationConfig, PretrainedConfig

from qwenft_plan.spec import Lora
from qwenft_trainer.adapters import merged, write_adapter
from qwenft_trainer.by_node import local_rank, local_size, on_each_node
from qwenft_trainer.checkpoint import failures_named, from_rank_0, removed_if_broken
from qwenft_trainer.checkpoint_files import copy_existing
from qwenft_trainer.gradients import local
from qwenft_trainer.model import FAMILIES
from qwenft_trainer.settings import Settings
from qwenft_trainer.stages import Stages
from qwenft_trainer.transfer import gather_shards

Gather = Callable[[Path], None]
"""Brings all nodes' files into rank 0's folder of the same name."""

FILE_BYTES = 5 * 10**9
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
SHARDED = "sharded"
INDEX = "model.safetensors.index.json"


def export_model(
    stages: Stages,
    directory: Path,
    *,
    source: Path | None,
    dtype: torch.dtype,
    lora: Lora | None = None,
    gather: Gather | None = None,
) -> None:
    """Write the model to ``directory``, in place of what was there. Collective.

    ``source`` is the directory that tokenizer and generation settings are copied from; adapters of
    ``lora`` are merged into the weights. ``gather`` brings shards to rank 0 where ``directory`` is
    another one on each node. Raises :class:`TrainerError` if it cannot be written.
    """
    weights = {name: value.detach() for name, value in stages.named_parameters()}
    weights = weights if lora is None else merged(weights, lora)
    weights = {name: value.to(dtype) for name, value in weights.items()}
    sizes = _all_sizes(weights)
    # All ranks' own files, and those that they are put together into.
    needed = 2 * sum(sizes.values())
    what = f"the model cannot be written to {directory}, where {needed:,} bytes must be free"
    temporary = _partial(directory)
    with failures_named(what), removed_if_broken(temporary):
        _begin(temporary, needed)
        if gather is not None:
            _begin_elsewhere(temporary, _bytes_of_node(weights, copies=stages.plan.dp_replicate))
        _write_weights(weights, temporary, file_numbers(sizes), gather=gather)
        if dist.get_rank() == 0:
            shutil.rmtree(temporary / SHARDED, ignore_errors=True)
            _complete(temporary, stages.config, source, dtype)
            _replace(temporary, directory)
        dist.barrier()


def _write_weights(
    weights: dict[str, Tensor],
    temporary: Path,
    files: dict[str, int],
    *,
    gather: Gather | None,
) -> None:
    """Write shards in parallel, and put them together into ``files`` on rank 0."""
    shards = temporary / SHARDED
    writer = HuggingFaceStorageWriter(
        str(temporary if gather is None else shards),
        fqn_to_index_mapping=files,
        save_distributed=True,
        enable_consolidation=gather is None,
    )
    save(weights, storage_writer=writer)
    if gather is None:
        return
    gather(shards)
    from_rank_0(lambda: consolidate_safetensors_files(str(shards), str(temporary), files))


def export_result(
    stages: Stages, directory: Path, *, settings: Settings, source: Path | None
) -> None:
    """Write to ``directory`` what was asked for: the model, merged or whole, or adapters alone.

    Weights have the plan's precision. Where adapters are merged, they are written beside the model,
    too. Collective.
    """
    dtype = torch.float32 if settings.plan.precision == "fp32" else torch.bfloat16
    lora, model = settings.spec.training.adapters, settings.spec.model
    store = settings.remote
    apart = store is not None and local_size() < dist.get_world_size()
    gather = partial(gather_shards, store) if apart and store is not None else None
    whole = lora is None or settings.spec.output.merge_adapter
    if whole:
        export_model(stages, directory, source=source, dtype=dtype, lora=lora, gather=gather)
    if lora is not None:
        final = directory == settings.model_directory
        beside = "adapter" if final else f"{directory.name}-adapter"
        place = directory.with_name(beside) if whole else directory
        base = model.path or model.name
        export_adapter(stages, place, source=source, lora=lora, base=base)


def export_adapter(
    stages: Stages, directory: Path, *, source: Path | None, lora: Lora, base: str
) -> None:
    """Write trained adapters as peft does, the tokenizer beside them. Collective.

    ``base`` is the name or directory of the model that they belong to. Raises
    :class:`TrainerError` if they cannot be written.
    """
    needed = sum(_all_sizes(dict(stages.trained_parameters())).values())
    what = f"the adapters cannot be written to {directory}, where {needed:,} bytes must be free"
    temporary = _partial(directory)
    with failures_named(what), removed_if_broken(temporary):
        _begin(temporary, needed)
        write_adapter(stages, lora, temporary, base=base)
        if dist.get_rank() == 0:
            if source is not None:
                copy_existing(TOKENIZER_FILES, source, temporary)
            _replace(temporary, directory)
        dist.barrier()


def _partial(directory: Path) -> Path:
    """Return the directory beside the one that will be replaced."""
    return directory.with_name(f".{directory.name}.partial")


def _begin(temporary: Path, needed: int) -> None:
    """Make an empty directory where there is room for ``needed`` bytes. Collective.

    A write that a full disk cuts short ends in torch's words or, in a mapped file, in a signal.
    """
    from_rank_0(partial(_made, temporary, needed))


def _begin_elsewhere(temporary: Path, needed: int) -> None:
    """Do so on the other nodes, each of which needs room for its own ranks' shards. Collective."""
    first = dist.get_rank() == 0
    on_each_node(lambda: None if first else _made(temporary, needed))


def _bytes_of_node(weights: dict[str, Tensor], *, copies: int) -> int:
    """Return the bytes that this node's ranks write: ``copies`` ranks share each shard's writing.

    Collective.
    """
    mine = sum(local(value).nbytes for value in weights.values())
    everyone: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    begin = dist.get_rank() - local_rank()
    return sum(everyone[begin : begin + local_size()]) // copies


def _made(temporary: Path, needed: int) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    disk = shutil.disk_usage(temporary)
    if disk.total and disk.free < needed:  # some mounted stores do not tell their size
        shutil.rmtree(temporary)
        raise OSError(errno.ENOSPC, _no_room(needed, disk.free))


def _no_room(needed: int, free: int) -> str:
    told, rank = f"{os.strerror(errno.ENOSPC)}, {free:,} bytes are free", dist.get_rank()
    return told if rank == 0 else f"{told} on the node of rank {rank}, which needs {needed:,}"


def file_numbers(sizes: dict[str, int], limit: int = FILE_BYTES) -> dict[str, int]:
    """Spread parameters over files of at most ``limit`` bytes; numbers from 1, in name order."""
    number, used, numbers = 1, 0, {}
    for name, size in sorted(sizes.items()):
        if used and used + size > limit:
            number, used = number + 1, 0
        numbers[name] = number
        used += size
    return numbers


def _all_sizes(weights: dict[str, Tensor]) -> dict[str, int]:
    mine = {name: value.numel() * value.element_size() for name, value in weights.items()}
    everyone: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    return {name: size for part in everyone for name, size in part.items()}


def _complete(
    directory: Path, config: PretrainedConfig, source: Path | None, dtype: torch.dtype
) -> None:
    settings = config.to_dict()
    settings |= {"dtype": str(dtype).removeprefix("torch."), "use_cache": True}
    settings["architectures"] = [f"{FAMILIES[config.model_type]}ForCausalLM"]
    config.__class__.from_dict(settings).save_pretrained(directory)
    if source is not None:
        copy_existing(TOKENIZER_FILES, source, directory)
    if not (directory / "generation_config.json").exists():
        GenerationConfig.from_model_config(config).save_pretrained(directory)
    _name_single_file(directory)


def _name_single_file(directory: Path) -> None:
    """Give a model of one file the name that needs no index."""
    files = sorted(directory.glob("model-*.safetensors"))
    if len(files) == 1:
        files[0].rename(directory / "model.safetensors")
        (directory / INDEX).unlink(missing_ok=True)


def _replace(temporary: Path, directory: Path) -> None:
    """Swap the new directory in; a reader sees the old one or the new one, or, briefly, none."""
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    temporary.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
