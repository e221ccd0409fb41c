"""What gangs do with checkpoints and exports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from parity.stand import Stand, train_steps
from qwenft_trainer.checkpoint import CheckpointStore
from qwenft_trainer.export import export_model
from qwenft_trainer.failure import TrainerError
from qwenft_trainer.saver import Saver

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


def save_and_go_on(stand: Stand, options: Mapping[str, Any]) -> list[list[float]]:
    """Train 4 steps, save, train the other 4 while the files are written."""
    built = stand.build()
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
    built = stand.build()
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
    """Train, then export as asked."""
    built = stand.build()
    points = train_steps(stand, built)
    export_model(
        built.stages,
        Path(options["directory"]),
        source=stand.model,
        dtype=getattr(torch, options["dtype"]),
    )
    return points
