"""torchtune's own recipe over the bench's work: ``python -m speed.tune WORK FOLDER TIMES``.

The recipe is torchtune's file, unchanged; its config names what it asks for from here: the samples,
a tokenizer that has a padding token and no more, and a log that is the clock. It runs in an
interpreter of its own, since torchtune wants an older torchao than this trainer.
"""

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from speed.work import CLIP, RATE, Timed, Work

RECIPES = {
    1: ("full_finetune_single_device", "FullFinetuneRecipeSingleDevice"),
    2: ("full_finetune_distributed", "FullFinetuneRecipeDistributed"),
}
"""Ranks to the recipe's file and class. The second shards model and optimizer by FSDP2."""
HERE = "speed.tune"
_running: list[tuple[Work, Timed]] = []


def config(work: Work, folder: Path, ranks: int) -> dict[str, Any]:
    """Return the recipe's config: ``qwen2_5/0.5B_full_single_device.yaml``, for the work."""
    model = json.loads((folder / "model" / "config.json").read_text())
    rope = model.get("rope_theta") or model["rope_parameters"]["rope_theta"]
    output = str(folder / "torchtune")
    return {
        "output_dir": output,
        "model": {
            "_component_": "torchtune.models.qwen2.qwen2", "vocab_size": work.vocabulary,
            "num_layers": work.layers, "num_heads": model["num_attention_heads"],
            "num_kv_heads": model["num_key_value_heads"], "embed_dim": work.hidden,
            "intermediate_dim": model["intermediate_size"], "max_seq_len": work.longest,
            "norm_eps": model["rms_norm_eps"], "rope_base": rope,
        },
        "tokenizer": {"_component_": f"{HERE}.tokenizer"},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(folder / "model"), "checkpoint_files": ["model.safetensors"],
            "recipe_checkpoint": None, "output_dir": output, "model_type": "QWEN2",
        },
        "resume_from_checkpoint": False,
        "dataset": {"_component_": f"{HERE}.Rows", "packed": False},
        "seed": 0, "shuffle": False, "epochs": 1, "max_steps_per_epoch": None,
        "batch_size": work.rows // ranks, "gradient_accumulation_steps": 1,
        "optimizer": {
            "_component_": "torch.optim.AdamW", "fused": True, "lr": RATE, "weight_decay": 0.0,
        },
        "optimizer_in_bwd": False,
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "device": "cpu", "dtype": "fp32", "compile": False, "clip_grad_norm": CLIP,
        "enable_activation_checkpointing": False, "enable_activation_offloading": False,
        "metric_logger": {"_component_": f"{HERE}.Clock"}, "log_every_n_steps": 1,
        "log_peak_memory_stats": False,
    }  # fmt: skip


def tokenizer() -> SimpleNamespace:
    """Return what the recipe asks of a tokenizer."""
    return SimpleNamespace(pad_id=0)


class Rows(torch.utils.data.Dataset[Mapping[str, list[int]]]):
    """The samples as torchtune's datasets give them."""

    def __init__(self, _tokenizer: object, *, packed: bool) -> None:
        del packed
        self.samples = [sample.tolist() for sample in _running[0][0].samples()]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Mapping[str, list[int]]:
        return {"tokens": self.samples[index], "labels": self.samples[index]}


class Clock:
    """The recipe's log, told of each step once its loss is known."""

    def log_config(self, _config: object) -> None:
        """Take the config."""

    def log_dict(self, values: Mapping[str, Any], step: int) -> None:
        """Note the end of a step."""
        del step
        _running[0][1].step(float(values["loss"]))

    def close(self) -> None:
        """End."""


def load_recipe(name: str) -> Any:
    """Load a recipe's file; torchtune's folder of them is no package."""
    found = importlib.util.find_spec("torchtune")
    assert found is not None, "torchtune is not installed here"
    path = Path(str(found.origin)).parents[1] / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forget_the_gpu() -> None:
    """Leave out what ends the recipe of several ranks on a CPU: it tells of a GPU's memory."""
    training: Any = importlib.import_module("torchtune.training")
    training.get_memory_stats, training.log_memory_stats = lambda **_: {}, lambda *_: None
    training.cleanup_before_training = lambda: None


def main(load: str, place: str, times: str) -> None:
    """Train as the recipe's command line does; what the clock has goes to the file ``times``."""
    torch.set_num_threads(1)
    # The recipe asks for its parts by this module's name, and its state must be this one's.
    sys.modules[HERE] = sys.modules[__name__]
    work, ranks = Work(**json.loads(load)), int(os.environ["WORLD_SIZE"])
    clock = Timed(work=work)
    _running[:] = [(work, clock)]
    cfg = importlib.import_module("omegaconf").DictConfig(config(work, Path(place), ranks))
    if ranks > 1:
        forget_the_gpu()
    file, name = RECIPES[ranks]
    recipe = getattr(load_recipe(file), name)(cfg=cfg)
    recipe.setup(cfg=cfg)
    recipe.train()
    recipe.cleanup()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torchtune", "torchao"))
    found = {"ends": clock.ends, "losses": clock.losses, "note": versions}
    Path(times).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
