"""Checkpoints that are whole or not there, and fit every plan.

A checkpoint is a directory ``step-<step>-attempt-<attempt>`` with torch's distributed checkpoint
in it, tensors under Hugging Face's names and no trace of the plan that wrote them. It is written
under a temporary name; a manifest with the digest of every file comes last; the rename publishes
it. :mod:`qwenft_trainer.saver` lets training go on meanwhile. An attempt writes only names of its
own, and first leaves its number in ``fence.json``, so an attempt that was given up but still runs
can neither overwrite nor outrank its successor.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from qwenft_trainer.adam8bit import AdamW8bit
from qwenft_trainer.by_node import local_rank, local_size, on_each_node, on_each_rank
from qwenft_trainer.checkpoint_files import (
    MANIFEST,
    Found,
    best,
    digests,
    find,
    foreign,
    fsync_directory,
    last_attempt,
    remove_old,
    unlisted,
    verify,
    write_json,
)
from qwenft_trainer.checkpoint_reader import GuardedReader, suspicious
from qwenft_trainer.failure import OutputInvalid, TrainerError
from qwenft_trainer.refused import Refused
from qwenft_trainer.remote_checkpoints import Mirror
from qwenft_trainer.stages import Stages

FENCE = "fence.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
COUNT = "step"
"""Of an optimizer's state the one number that the checkpoint's own step stands for."""
CUT_SHORT = " (a file that could not be written to its end: the disk or a quota is full)"
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """Where a run goes on: ``step`` optimizer steps are done (0: from the start)."""

    step: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointStore:
    """The checkpoints of one run, as one attempt sees them. All methods are collective.

    ``identity`` names the run: checkpoints of another one are passed over. So are those of step
    ``before_step`` and later, where it is given: training from them ended badly. With ``mirror``
    the directory is each node's own copy of a store, which counts. ``warn`` is told, on rank 0,
    what was passed over and why.
    """

    directory: Path
    identity: str
    attempt: int
    keep: int = 2
    keep_best: bool = False
    before_step: int | None = None
    mirror: Mirror | None = None
    warn: Callable[[str], None] = print

    @property
    def where(self) -> str:
        """What errors call the place."""
        return str(self.directory) if self.mirror is None else self.mirror.url

    def claim(self) -> None:
        """Fence off earlier attempts.

        Raises :class:`TrainerError` if a later one was here, or the directory cannot be written to.
        """
        with failures_named(f"checkpoints cannot be written to {self.where}"):
            self._on_rank_0(self._claim)

    def begin(self, step: int) -> Path:
        """Make room for the checkpoint after ``step``; returns the directory to write it into.

        Raises :class:`TrainerError` if a later attempt has taken over.
        """
        partial = self.directory / f".{self._name(step)}.partial"
        with failures_named(f"checkpoints cannot be written to {self.where}"):
            self._on_rank_0(lambda: self._prepare(partial))
        return partial

    def write(
        self,
        state: dict[str, Any],
        partial: Path,
        step: int,
        notes: Mapping[str, object],
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Write ``state`` into ``partial`` and publish it; ``group`` carries all messages.

        ``notes`` are JSON values to find again with it. Raises :class:`TrainerError`, and publishes
        nothing, if it cannot be written or a later attempt has taken over meanwhile.
        """
        name = self._name(step)
        what = f"checkpoint {self.where}/{name} cannot be written"
        what += " (those before it are whole; make room there)"
        with failures_named(what), removed_if_broken(partial):
            save(state, storage_writer=FileSystemWriter(str(partial)), process_group=group)
            mine = digests(partial, prefix=f"__{dist.get_rank()}_")
            self._send(partial, mine, name, group)
            listed = _gathered(mine, group)
            manifest = {
                "step": step,
                "attempt": self.attempt,
                "identity": self.identity,
                "notes": notes,
                "files": listed,
            }
            from_rank_0(lambda: self._publish(partial, name, manifest), group)
            self._thin(group)

    def restore(self, stages: Stages, optimizer: torch.optim.Optimizer) -> Restored:
        """Load the newest checkpoint that is whole, under whatever plan it was written."""
        for found in from_rank_0(lambda: find(self.directory)):
            reason = self._unusable(found)
            if reason is not None:
                self._warn(f"checkpoint {found.path} is passed over: {reason}")
                continue
            return self._loaded(found, stages, optimizer)
        return Restored()

    def best(self) -> Found | None:
        """Return this run's checkpoint of the lowest validation loss, if any was evaluated."""
        there = from_rank_0(lambda: find(self.directory))
        return best([found for found in there if found.identity == self.identity])

    def restore_best(self, stages: Stages, optimizer: torch.optim.Optimizer) -> Restored | None:
        """Load :meth:`best`; None, with a warning, where it is not whole."""
        found = self.best()
        if found is None:
            return None
        reason = self._unusable(found)
        if reason is not None:
            self._warn(f"the best checkpoint, {found.path}, cannot be used: {reason}")
            return None
        return self._loaded(found, stages, optimizer)

    def _loaded(self, found: Found, stages: Stages, optimizer: torch.optim.Optimizer) -> Restored:
        prepare_moments(optimizer, found.step)
        with failures_named(f"checkpoint {found.path} cannot be read"):
            load(state_of(stages, optimizer), storage_reader=GuardedReader(found.path))
            self._thin()
        return Restored(step=found.step, notes=found.notes)

    def _name(self, step: int) -> str:
        return f"step-{step:08d}-attempt-{self.attempt:04d}"

    def _unusable(self, found: Found) -> str | None:
        if found.identity != self.identity:
            return "it belongs to another run or other training settings"
        if found.attempt > self.attempt:
            return f"it belongs to attempt {found.attempt}, this is attempt {self.attempt}"
        if self.before_step is not None and found.step >= self.before_step:
            return f"one from before step {self.before_step} was asked for"
        if strange := foreign(found):
            return strange
        rank, ranks = dist.get_rank(), dist.get_world_size()
        if self.mirror is not None:  # each node looks through its own copy
            fetch, rank, ranks = self.mirror.fetch_all, local_rank(), local_size()
            with failures_named(f"checkpoint {self.where}/{found.path.name} cannot be fetched"):
                on_each_node(lambda: fetch(found.path.name, (MANIFEST, *found.files)))
        mine = found.files_of(rank, ranks)
        problem = unlisted(found) or verify(found.path, mine) or suspicious(found.path)
        problems = [problem for problem in _gathered_list(problem) if problem]
        return problems[0] if problems else None

    def _claim(self) -> None:
        if self.mirror is not None:
            self.mirror.look(attempt=self.attempt)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._check_fence()
        for leftover in self.directory.glob(".*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        fence = {"identity": self.identity, "attempt": self.attempt}
        write_json(self.directory / FENCE, fence)
        if self.mirror is not None:
            self.mirror.send_one(FENCE)

    def _check_fence(self) -> None:
        if self.mirror is not None:
            self.mirror.fetch(FENCE)
        last = last_attempt(self.directory / FENCE, self.identity)
        if last > self.attempt:
            raise TrainerError(
                f"attempt {self.attempt} was replaced by attempt {last}, which owns "
                f"{self.where}; nothing was written"
            )

    def _prepare(self, temporary: Path) -> None:
        self._check_fence()
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def _publish(self, temporary: Path, name: str, manifest: Mapping[str, Any]) -> None:
        metadata = digests(temporary, prefix=".metadata")
        whole = {**manifest, "files": {**manifest["files"], **metadata}}
        write_json(temporary / MANIFEST, whole)
        self._check_fence()
        final = self.directory / name
        if self.mirror is not None:
            self.mirror.send(temporary, (*metadata, MANIFEST), name)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        fsync_directory(self.directory)
        before = {found.path.name for found in find(self.directory)}
        remove_old(
            self.directory,
            keep=self.keep,
            attempt=self.attempt,
            identity=self.identity,
            keep_best=self.keep_best,
        )
        if self.mirror is not None:
            self.mirror.remove(before - {found.path.name for found in find(self.directory)})

    def _send(
        self, partial: Path, files: Mapping[str, str], name: str, group: dist.ProcessGroup | None
    ) -> None:
        if self.mirror is not None:
            send = self.mirror.send
            on_each_rank(lambda: send(partial, files, name), group)

    def _thin(self, group: dist.ProcessGroup | None = None) -> None:
        if self.mirror is not None:
            on_each_node(self.mirror.thin, group)

    def _on_rank_0(self, action: Callable[[], None]) -> None:
        from_rank_0(action)

    def _warn(self, message: str) -> None:
        if dist.get_rank() == 0:
            self.warn(message)


def state_of(stages: Stages, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what a checkpoint holds: this rank's shards of weights and Adam's moments, by name."""
    weights = {name: value.detach() for name, value in stages.trained_parameters()}
    moments = {
        name: {moment: kept for moment, kept in optimizer.state[value].items() if moment != COUNT}
        for name, value in stages.trained_parameters()
        if value in optimizer.state
    }
    return {"model": weights, "optimizer": moments}


def prepare_moments(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Give every parameter the optimizer state that a checkpoint is read into."""
    for group in optimizer.param_groups:
        for value in group["params"]:
            if isinstance(optimizer, AdamW8bit):
                optimizer.prepare(value, float(step))
                continue
            moments: dict[str, Tensor] = {name: torch.zeros_like(value) for name in MOMENTS}
            count = torch.tensor(float(step), dtype=torch.float32, device=value.device)
            optimizer.state[value] = {COUNT: count, **moments}


@contextmanager
def failures_named(what: str) -> Iterator[None]:
    """Turn what torch and the system raise over files into an error that says ``what`` failed.

    torch's error is no ``Exception``, and the system's often names no file.
    """
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        hint = CUT_SHORT if "unexpected pos" in str(cause) else ""
        raise TrainerError(f"{what}: rank {rank}: {cause}{hint}") from None
    except OSError as error:
        kind = OutputInvalid if isinstance(error, Refused) else TrainerError
        raise kind(f"{what}: {error}") from error


@contextmanager
def removed_if_broken(partial: Path) -> Iterator[None]:
    """Give the room back that files take which could not be written to their end, on every node."""
    try:
        yield
    except (CheckpointException, OSError):
        if local_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def from_rank_0(action: Callable[[], Value], group: dist.ProcessGroup | None = None) -> Value:
    """Run ``action`` on rank 0; every rank gets its value, or its error. Collective."""
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = action()
        except (TrainerError, OSError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0, group=group)
    if outcome[1] is not None:
        raise outcome[1]
    value: Value = outcome[0]
    return value


def _gathered(mine: Mapping[str, str], group: dist.ProcessGroup | None) -> dict[str, str]:
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, dict(mine), group=group)
    return {name: digest for part in everyone for name, digest in part.items()}


def _gathered_list(mine: str | None) -> list[str | None]:
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
