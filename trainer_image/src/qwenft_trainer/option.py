"""The one line: ``enable_advanced_parallelization()``.

Under a plan it joins the ranks and makes ``from_pretrained`` return a model that is spread over
them. Without a plan it does nothing, so a script runs as it always did.
"""

import atexit
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from huggingface_hub import snapshot_download
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from qwenft_plan.plan import Plan
from qwenft_trainer import planfile
from qwenft_trainer.blame import refuse, told_where
from qwenft_trainer.failure import ModelInvalid
from qwenft_trainer.mesh import SET_UP, build_mesh, pick_device
from qwenft_trainer.model import read_config
from qwenft_trainer.stages import build_stages
from qwenft_trainer.together import meet, prepare_to_meet, share_random_state, user_random_state
from qwenft_trainer.user_model import Origin, ParallelModel
from qwenft_trainer.weights import Checkpoint

MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
REFUSED_ARGUMENTS = {
    "device_map": "the plan places the model; leave device_map out",
    "tp_plan": "the plan splits the model; leave tp_plan out",
    "quantization_config": "quantized training is not supported; leave it out",
    "load_in_8bit": "quantized training is not supported; leave it out",
    "load_in_4bit": "quantized training is not supported; leave it out",
    "state_dict": "write the weights to a directory and load that",
}


class Session:
    """The plan of this process, and what has become of it so far."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.mesh: DeviceMesh | None = None
        self.models: list[ParallelModel] = []

    def enable(self) -> None:
        """Join the other ranks; a second call does nothing."""
        if self.mesh is not None:
            return
        device = pick_device()
        if not dist.is_initialized():
            # State dicts and checks travel on the CPU, gradients where the model is.
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=SET_UP)
            atexit.register(_leave)
        self.mesh = build_mesh(self.plan, device.type)
        prepare_to_meet()
        share_random_state()

    def load(self, name: str | Path, **options: Any) -> ParallelModel:
        """Build a model as the plan wants it, in place of ``from_pretrained``. Collective."""
        if self.mesh is None:
            refuse(
                "a model is loaded under a plan before enable_advanced_parallelization()",
                "call torch.moreh.option.enable_advanced_parallelization() first, once, near the "
                "top of the script",
            )
        for key, way_out in REFUSED_ARGUMENTS.items():
            if options.get(key) is not None:
                refuse(f"from_pretrained({key}=…) is not supported", way_out)
        meet("from_pretrained")
        directory = model_directory(name, options.get("revision"))
        self._tell(f"loading {directory}")
        config = read_config(directory)
        with user_random_state(), told_where():
            backend = planfile.compiler(self.plan, os.environ)
            source = Checkpoint(path=directory)
            stages = build_stages(self.plan, self.mesh, config, source, compile_backend=backend)
        origin = Origin(
            directory=directory, dtype=_dtype(config), generation=_generation(directory, config)
        )
        self.models.append(ParallelModel(stages, origin))
        self._tell(f"{directory} is in place")
        return self.models[-1]

    def _tell(self, what: str) -> None:
        """Say on standard error how far the loading is; standard output is the script's own."""
        if dist.get_rank() == 0:
            plan = self.plan
            axes = f"pp {plan.pp} × dp {plan.dp} × tp {plan.tp}"
            print(f"qwenft: {what} ({axes})", file=sys.stderr, flush=True)  # noqa: T201

    def check_end(self) -> None:
        """Refuse a script that ended without having used its ranks together."""
        if not self.models and self.plan.world_size > 1:
            refuse(
                "the script ended without a model made by from_pretrained after "
                "enable_advanced_parallelization(), so its ranks have each trained alone",
                "call the line and load the model by AutoModelForCausalLM.from_pretrained",
            )


_current: list[Session] = []


def start_session(plan: Plan | None) -> Session | None:
    """Remember the plan that the one line will follow."""
    _current[:] = [] if plan is None else [Session(plan)]
    return session()


def session() -> Session | None:
    """Return this process' session; None without a plan."""
    return _current[0] if _current else None


def enable_advanced_parallelization() -> None:
    """Make the models that are loaded from here on follow the plan; nothing without a plan.

    Raises :class:`~qwenft_trainer.failure.PlanInvalid` if the plan does not fit the processes.
    """
    if session() is None:
        plan = planfile.load(os.environ, world_size=int(os.environ.get("WORLD_SIZE", "1")))
        if plan is None:
            return
        # A script that was not started by the launcher: its imports may have come before.
        from qwenft_trainer import shims  # noqa: PLC0415 - shims stand on this module

        shims.installed(plan).__enter__()
    found = session()
    assert found is not None  # noqa: S101 - installed has started one
    found.enable()


def model_directory(name: str | Path, revision: str | None = None) -> Path:
    """Return a model's directory, fetched from the hub where ``name`` is no directory.

    Raises :class:`ModelInvalid` naming the model.
    """
    if Path(name).is_dir():
        return Path(name)
    if str(name).startswith((".", "/")):
        raise ModelInvalid(f"{name}: no such directory; check the path and the volume")
    try:
        found = snapshot_download(str(name), revision=revision, allow_patterns=MODEL_FILES)
    except Exception as error:  # noqa: BLE001 - the hub's client raises many kinds
        raise ModelInvalid(
            f"{name}: neither a directory nor to be had from the hub: {error}"
        ) from None
    return Path(found)


def from_config(*_: Any, **__: Any) -> NoReturn:
    """Refuse a model with random weights: they would be others on each rank."""
    refuse(
        "from_config is not supported under a plan",
        "save the model once without a plan and load it by from_pretrained",
    )


def loader(found: Session) -> Callable[..., ParallelModel]:
    """Return what stands in for ``from_pretrained`` of model classes."""

    def from_pretrained(
        _cls: type, pretrained_model_name_or_path: str | Path, *_: Any, **options: Any
    ) -> ParallelModel:
        return found.load(pretrained_model_name_or_path, **options)

    return from_pretrained


def _dtype(config: PretrainedConfig) -> torch.dtype:
    found = getattr(config, "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.float32


def _generation(directory: Path, config: PretrainedConfig) -> GenerationConfig:
    if (directory / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(directory, trust_remote_code=False)
    found = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    return GenerationConfig.from_model_config(found or config)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
