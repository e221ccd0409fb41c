"""What gangs do with checkpoints and exports."""

import os
import resource
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from parity.looping import fill_disk
from parity.stand import Built, Stand, train_steps
from qwenft_plan.spec import Lora
from qwenft_trainer.checkpoint import CheckpointStore
from qwenft_trainer.export import export_adapter, export_model
from qwenft_trainer.failure import TrainerError
from qwenft_trainer.remote import Store
from qwenft_trainer.saver import Saver
from qwenft_trainer.transfer import gather_shards

SAVED_AFTER = 4


def store(options: Mapping[str, Any], warnings: list[str] | None = None) -> CheckpointStore:
    """Return the store that the options describe."""
    return CheckpointStore(
        directory=Path(options["directory"]),
        identity=options.get("identity", "run"),
        attempt=options.get("attempt", 1),
        keep=options.get("keep", 2),
        before_step=options.get("before_step"),
        warn=print if warnings is None else warnings.append,
    )


def build(stand: Stand, options: Mapping[str, Any]) -> Built:
    """Build the stages, with adapters and a compiler if the options name some."""
    return stand.build(lora=options.get("lora"), compile_backend=options.get("compile_backend"))


def save_and_go_on(stand: Stand, options: Mapping[str, Any]) -> list[list[float]]:
    """Train 4 steps, save, train the other 4 while the files are written."""
    built = build(stand, options)
    saved = store(options)
    saved.claim()
    saver = Saver(saved)
    points = train_steps(stand, built, end=SAVED_AFTER)
    saver.save(built.stages, built.optimizer, SAVED_AFTER, seen="half")
    points += train_steps(stand, built, begin=SAVED_AFTER)
    saver.wait()
    assert saver.published == SAVED_AFTER
    return points


def resume(stand: Stand, options: Mapping[str, Any]) -> dict[str, Any]:
    """Restore and train on to the end."""
    built = build(stand, options)
    saved = store(options)
    saved.claim()
    restored = saved.restore(built.stages, built.optimizer)
    points = train_steps(stand, built, begin=restored.step)
    return {"step": restored.step, "notes": dict(restored.notes), "points": points}


def restore_only(stand: Stand, options: Mapping[str, Any]) -> dict[str, Any]:
    """Restore without claiming; the step, and what was said."""
    built = stand.build()
    warnings: list[str] = []
    restored = store(options, warnings).restore(built.stages, built.optimizer)
    return {"step": restored.step, "warnings": warnings}


def fenced(stand: Stand, options: Mapping[str, Any]) -> str:
    """Let attempt 1 save after attempt 2 has claimed the directory; the error's text."""
    built = stand.build()
    train_steps(stand, built, end=1)
    old = store({**options, "attempt": 1})
    old.claim()
    store({**options, "attempt": 2}).claim()
    try:
        Saver(old).save(built.stages, built.optimizer, 1)
    except TrainerError as error:
        return str(error)
    return "saved"


def export(stand: Stand, options: Mapping[str, Any]) -> list[list[float]]:
    """Train, then export as asked; adapters both alone and merged."""
    built = build(stand, options)
    points = train_steps(stand, built)
    directory, dtype = Path(options["directory"]), getattr(torch, options["dtype"])
    lora = None if options.get("lora") is None else Lora(**options["lora"])
    export_model(built.stages, directory, source=stand.model, dtype=dtype, lora=lora)
    if lora is not None:
        place = directory.with_name(f"{directory.name}-adapter")
        export_adapter(built.stages, place, source=stand.model, lora=lora, base=str(stand.model))
    return points


def export_apart(stand: Stand, options: Mapping[str, Any]) -> dict[str, Any]:
    """Export where each rank is a node; what each of them raised, and has on its disk afterwards.

    ``free``: so many bytes are free on the last rank's disk. ``full``: its files can't grow.
    """
    built, last = stand.build(), dist.get_rank() == dist.get_world_size() - 1
    place = Path(options["directory"]) / str(dist.get_rank())
    gather = partial(gather_shards, Store(f"file://{options['directory']}/store"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    node = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    usage = SimpleNamespace(total=2**40, free=options["free"]) if "free" in options else None
    told = None
    with patch.dict(os.environ, node), ExitStack() as stack:
        if last and usage is not None:
            stack.enter_context(patch.object(shutil, "disk_usage", lambda _: usage))
        if last and options.get("full"):
            fill_disk()
        try:
            export_model(
                built.stages, place / "model", source=None, dtype=torch.float32, gather=gather
            )
        except TrainerError as error:
            told = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = (told, sorted(path.name for path in place.iterdir()) if place.is_dir() else [])
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    return {"told": [each[0] for each in everyone], "left": [each[1] for each in everyone]}
