"""Where the model comes from: a directory in a volume, or the hub by name."""

from pathlib import Path

import torch.distributed as dist
from huggingface_hub import snapshot_download

from qwenft_plan.spec import Model
from qwenft_trainer.failure import ModelInvalid
from qwenft_trainer.weights import Checkpoint, Fresh, Source

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.safetensors.index.json")


def find_model(model: Model, *, local_rank: int) -> Path:
    """Return the model's directory, downloading it by name if no path is given. Collective.

    One process a node downloads, the others wait and use its cache. Raises :class:`ModelInvalid`.
    """
    if model.path:
        return _existing(Path(model.path))
    if local_rank == 0:
        _download(model.name)
    dist.barrier()
    return _download(model.name)


def source_of(directory: Path, *, seed: int) -> Source:
    """Return the weights to begin with: the directory's, or random ones if it has a config only.

    Raises :class:`ModelInvalid` for weights in a format that is not read.
    """
    if any(directory.glob("*.safetensors")):
        return Checkpoint(path=directory)
    for pattern in OTHER_WEIGHTS:
        for path in directory.glob(pattern):
            raise ModelInvalid(f"{path}: {directory} has no *.safetensors; convert it")
    return Fresh(seed=seed)


def _existing(directory: Path) -> Path:
    if not directory.is_dir():
        raise ModelInvalid(f"model.path {directory} is no directory; is its volume mounted?")
    return directory


def _download(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # the hub's client raises its own kinds and the network's
        raise ModelInvalid(f"{name} cannot be fetched from the hub: {error}") from error
