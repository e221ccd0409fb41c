"""Saving while training goes on.

The state is copied into host memory, which is what training waits for; a thread writes the copy.
The thread's messages go over a process group of their own, so that they never meet those of the
training step. Where host memory has no room for the copy, training waits for the files as well.
"""

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from qwenft_trainer.checkpoint import CheckpointStore, state_of
from qwenft_trainer.failure import TrainerError
from qwenft_trainer.gradients import local
from qwenft_trainer.headroom import available_bytes
from qwenft_trainer.mesh import SET_UP, pick_device
from qwenft_trainer.stages import Stages

ROOM_SHARE = 0.8
"""Of the memory that is free, the share that a copy may take."""


class Saver:
    """The saves of one attempt, one at a time. Made, used and waited for by all ranks together.

    ``begun`` is the step of the newest save that was asked for, ``published`` that of the newest
    whole checkpoint. ``blocked`` and ``seconds`` tell how long training waited for the last save,
    and how long it took until it was published.
    """

    def __init__(self, store: CheckpointStore, *, published: int | None = None) -> None:
        self._store = store
        self._group: Any = dist.new_group(backend="gloo", timeout=SET_UP)
        self._stager: DefaultStager | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.begun = self.published = published
        self.blocked: float | None = None
        self.seconds: float | None = None

    def save(
        self,
        stages: Stages,
        optimizer: torch.optim.Optimizer,
        step: int,
        *,
        wait: bool = False,
        **notes: object,
    ) -> None:
        """Save what ``step`` optimizer steps have come to; returns once it may be changed.

        ``wait``: only when it lies there. Raises what the save before ended with, if it failed.
        """
        began = time.monotonic()
        self.wait()
        partial = self._store.begin(step)
        state = state_of(stages, optimizer)
        self.begun = step
        if wait or not self._has_room(state):
            self._write(state, partial, step, notes, began)
            self.wait()
        else:
            copy = self._copied(state)
            work = (copy, partial, step, notes, began)
            self._thread = threading.Thread(target=self._write, args=work, name="save", daemon=True)
            self._thread.start()
        self.blocked = time.monotonic() - began

    def wait(self) -> None:
        """Wait until nothing is being written; raises what the last save ended with."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    @property
    def failed(self) -> bool:
        """Whether the save in the background has come to a bad end that was not raised yet."""
        return self._error is not None

    def fail(self) -> NoReturn:
        """Raise what the save in the background ended with, here or on another rank."""
        self.wait()
        raise TrainerError(f"the checkpoint after step {self.begun} failed on another rank")

    def figures(self) -> dict[str, float | None]:
        """Return what reports tell of the newest checkpoint and the last save."""
        return {
            "checkpoint_step": self.published,
            "checkpoint_seconds": self.seconds,
            "checkpoint_blocked_seconds": self.blocked,
        }

    def _write(
        self,
        state: dict[str, Any],
        partial: Path,
        step: int,
        notes: Mapping[str, object],
        began: float,
    ) -> None:
        try:
            self._store.write(state, partial, step, notes, self._group)
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits
            self._error = error
        else:
            self.published = step
            self.seconds = time.monotonic() - began

    def _copied(self, state: dict[str, Any]) -> dict[str, Any]:
        """Copy into host memory. From a GPU: into pinned memory that is kept for the next time."""
        pinned = pick_device().type == "cuda"
        stager = self._stager or DefaultStager(
            StagingOptions(
                use_pinned_memory=pinned,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=pinned,
            )
        )
        copy: Any = stager.stage(state)
        if pinned:
            self._stager = stager
        else:
            # It refers to itself, and its copy would stay until the collector of cycles comes by.
            stager.close()
        return dict(copy)

    def _has_room(self, state: Mapping[str, Mapping[str, Any]]) -> bool:
        """Tell, alike on all ranks, whether every host has room for its ranks' copies."""
        needed = copy_bytes(state) * int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
        fits = torch.tensor(int(needed <= ROOM_SHARE * available_bytes()))
        dist.all_reduce(fits, op=dist.ReduceOp.MIN, group=self._group)
        return bool(fits)


def copy_bytes(state: Mapping[str, Any]) -> int:
    """Return the bytes that this rank's shards of a state take."""
    total = 0
    for value in state.values():
        if isinstance(value, Mapping):
            total += copy_bytes(value)
        elif isinstance(value, Tensor):
            total += local(value).nbytes
    return total
