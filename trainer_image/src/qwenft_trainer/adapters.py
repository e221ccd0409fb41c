"""LoRA by Hugging Face's peft: its layers inside a stage, its names, its files.

The base weights are frozen and kept in the precision that computes; only the adapters are trained,
saved and, in peft's own format, exported. peft is imported only by runs that ask for it.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from qwenft_plan.plan import Plan
from qwenft_plan.spec import Lora
from qwenft_trainer.gradients import local
from qwenft_trainer.model import Stage

if TYPE_CHECKING:
    from qwenft_trainer.stages import Stages

NAME = "default"
"""peft's name of an adapter that got none."""
FIRST, SECOND = f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight"
BASE = ".base_layer."
"""What peft puts into the name of a matrix that it wraps."""
FILE = "adapter_model.safetensors"


def adapt(stage: Stage, lora: Lora, plan: Plan) -> None:
    """Put adapters beside a stage's matrices and freeze all else, in place, on the meta device."""
    from peft import inject_adapter_in_model  # noqa: PLC0415 - slow to import, and rarely needed

    inject_adapter_in_model(peft_config(lora), stage, NAME)
    compute = torch.float32 if plan.precision == "fp32" else torch.bfloat16
    for value in stage.parameters():
        if not value.requires_grad:
            value.data = value.data.to(compute)


@contextmanager
def still_frozen(stage: nn.Module) -> Iterator[None]:
    """Freeze again what was frozen: torch's parallel styles make parameters anew, to be trained."""
    trained = {name for name, value in stage.named_parameters() if value.requires_grad}
    yield
    for name, value in stage.named_parameters():
        value.requires_grad_(name in trained)


def peft_config(lora: Lora, base: str | None = None) -> Any:
    """Return peft's own description of the adapters; ``base`` is the model they belong to."""
    from peft import LoraConfig  # noqa: PLC0415

    # Fractions are fine to peft, though it declares a whole number.
    alpha: Any = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
    return LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )


def hub_name(name: str) -> str:
    """Return a parameter's name without what peft adds to a wrapped matrix."""
    return name.replace(BASE, ".")


def is_adapter(name: str) -> bool:
    """Tell whether a parameter belongs to an adapter."""
    return name.endswith((FIRST, SECOND))


def draw_adapter(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw as peft does: A uniform within 1/√(its inputs), B zero, so that nothing changes yet."""
    if name.endswith(SECOND):
        return torch.zeros(shape)
    bound = 1.0 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def merged(weights: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """Return the base weights with ``alpha / rank · B A`` added, each sharded as it was.

    Collective over the ranks that share a shard of A.
    """
    found = {name: value for name, value in weights.items() if not is_adapter(name)}
    for name, first in weights.items():
        if name.endswith(FIRST):
            stem = name.removesuffix(FIRST)
            base = found[f"{stem}.weight"]
            delta = local(weights[stem + SECOND]).float() @ _own_columns(first).float()
            whole = local(base).float() + lora.alpha / lora.rank * delta
            found[f"{stem}.weight"] = _like(base, whole)
    return found


def _own_columns(first: Tensor) -> Tensor:
    """Return all rows of A, and of its columns those that this tensor-parallel rank holds."""
    if not isinstance(first, DTensor):
        return first
    names = first.device_mesh.mesh_dim_names or ()
    placements = [
        placement if name == "tp" else Replicate()
        for name, placement in zip(names, first.placements, strict=True)
    ]
    return first.redistribute(placements=placements).to_local()


def _like(base: Tensor, part: Tensor) -> Tensor:
    if not isinstance(base, DTensor):
        return part
    return DTensor.from_local(
        part,
        base.device_mesh,
        base.placements,
        run_check=False,
        shape=base.shape,
        stride=base.stride(),
    )


def write_adapter(stages: "Stages", lora: Lora, directory: Path, *, base: str) -> None:
    """Write the adapters in peft's format into an existing directory. Collective."""
    mine = {name: _whole(value) for name, value in stages.trained_parameters()}
    parts: list[dict[str, Tensor]] = [{} for _ in range(stages.plan.pp)]
    dist.all_gather_object(parts, mine, group=stages.mesh.get_group("pp"))
    if dist.get_rank() == 0:
        everything = {file_name(name): value for part in parts for name, value in part.items()}
        save_file(everything, directory / FILE, metadata={"format": "pt"})
        peft_config(lora, base).save_pretrained(directory)


def file_name(name: str) -> str:
    """Return the name of an adapter's parameter in peft's file."""
    return "base_model.model." + name.replace(f".{NAME}.", ".")


def _whole(value: nn.Parameter) -> Tensor:
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.detach().cpu().contiguous()
