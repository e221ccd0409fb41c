"""The built-in loop as one case of a gang, with what befalls it."""

import json
import os
import resource
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from parity.stand import Stand
from qwenft_plan.spec import Checkpoint, Dataset, FinetuneSpec, Lora, Model, Output, Training
from qwenft_trainer import train
from qwenft_trainer.batch import Batch
from qwenft_trainer.failure import TrainerError
from qwenft_trainer.loss import IGNORED
from qwenft_trainer.mesh import data_index
from qwenft_trainer.preemption import StopSignal
from qwenft_trainer.run import Run
from qwenft_trainer.settings import Settings

FULL = 16384
"""Bytes of the largest file on a disk that counts as full: a manifest fits, weights do not."""


def loop(stand: Stand, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run the loop to its end, or to what ends it; what was reported, and the error if any.

    ``stop_after``: SIGTERM to the last rank when so many steps are done; ``kill_after``: SIGKILL.
    ``poison_after``: a parameter becomes NaN then. ``seen``: a file's name, to which each data rank
    adds the samples that it trains (:func:`note_samples`). ``full_after``: no file may grow beyond
    ``FULL`` bytes from then on (0: from the start), on all ranks or on ``full_rank`` alone.
    ``ended_by``: the step that waits for the end of the save in the background.
    ``apart``: each rank stands for a node, with a scratch directory of its own under ``scratch``.
    ``compiler``: what ``QWENFT_COMPILE`` says. ``environ``: further variables, as a store's client
    reads them.
    """
    settings = settings_of(stand, options)
    losses: dict[int, float] = {}
    error = None
    with StopSignal() as stop, _surroundings(options):
        try:
            run = train.prepare(settings, stop)
            _watch(run, losses, options)
            if "seen" in options:
                note_samples(run, Path(f"{options['seen']}-{data_index(stand.mesh)}.jsonl"))
            train.train(run)
        except TrainerError as caught:
            error = {"code": caught.exit_code, "step": caught.step, "message": str(caught)}
    result = settings.output / "result.json"
    return {
        "losses": {str(step): loss for step, loss in losses.items()},
        "error": error,
        "result": json.loads(result.read_text()) if result.exists() else None,
    }


@contextmanager
def _surroundings(options: Mapping[str, Any]) -> Iterator[None]:
    """Set what the process has, and put it back for the next case."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    os.environ["QWENFT_COMPILE"] = options.get("compiler", "")
    rank, ranks = str(dist.get_rank()), str(dist.get_world_size())
    place = ("0", "1") if options.get("apart") else (rank, ranks)
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = place
    further = options.get("environ", {})
    os.environ.update(further)
    if options.get("full_after") == 0:
        fill_disk(options.get("full_rank"))
    try:
        yield
    finally:
        for name in further:
            del os.environ[name]
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        del os.environ["QWENFT_COMPILE"]


def fill_disk(rank: int | None = None) -> None:
    """Let no file grow beyond ``FULL`` bytes, as on a full disk; on one rank alone if one is told.

    The system says "File too large" then, in place of "No space left on device".
    """
    if rank is None or rank == dist.get_rank():
        resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, resource.RLIM_INFINITY))


def settings_of(stand: Stand, options: Mapping[str, Any]) -> Settings:
    """Return the settings that ``run.json`` and the environment would give."""
    spec = FinetuneSpec(
        model=Model(path=str(stand.model), config=options.get("config", {})),
        dataset=Dataset(path=str(options["dataset"])),
        training=Training(
            batch_size=stand.plan.global_batch_size,
            learning_rate=options.get("rate", 1e-3),
            max_grad_norm=options.get("max_grad_norm", 1.0),
            report_to=tuple(options.get("report_to", ())),
            precision="fp32",
            sequence_length=64,
            evaluate_every_steps=options.get("evaluate_every"),
            method=stand.plan.method,
            lora=None if options.get("lora") is None else Lora(**options["lora"]),
        ),
        checkpoint=Checkpoint(
            every_steps=options.get("save_every"), keep=2, keep_best=options.get("keep_best", False)
        ),
        output=Output(path=str(options["output"]), merge_adapter=options.get("merge", False)),
    )
    scratch = Path(options.get("scratch", options["output"]))
    return Settings(
        plan=stand.plan,
        spec=spec,
        attempt=options.get("attempt", 1),
        identity="a run",
        scratch=scratch / str(dist.get_rank()) if options.get("apart") else scratch,
    )


def _watch(run: Run, losses: dict[int, float], options: Mapping[str, Any]) -> None:
    """Listen to the meter, and strike when the time has come."""
    told = run.meter.stepped

    def stepped(*, step: int, tokens: int, **values: Any) -> None:
        told(step=step, tokens=tokens, **values)
        losses[step] = values["loss"]
        for name, number in (("stop_after", signal.SIGTERM), ("kill_after", signal.SIGKILL)):
            if step == options.get(name) and dist.get_rank() == dist.get_world_size() - 1:
                os.kill(os.getpid(), number)
        if step == options.get("full_after"):
            run.saver.wait()
            fill_disk(options.get("full_rank"))
        if step == options.get("ended_by", -1):
            thread = run.saver._thread
            assert thread is not None  # waiting in the loop would raise what it ended with
            thread.join(timeout=60)
        if step == options.get("poison_after"):
            with torch.no_grad():
                next(iter(run.stages.parameters())).mul_(float("nan"))

    run.meter.stepped = stepped  # type: ignore[method-assign]


def note_samples(run: Run, path: Path) -> None:
    """Write which samples enter the model in each step; a sample's first token is its number."""
    mesh, execute = run.stages.mesh, run.stages.execution.train
    if mesh.get_local_rank("pp") or mesh.get_local_rank("tp"):
        return

    def noted(micro_batches: Sequence[Batch], trained_tokens: int) -> torch.Tensor:
        found: list[int] = []
        for batch in micro_batches:
            begins = (batch.position_ids == 0) & (batch.targets != IGNORED)
            found += batch.input_ids[begins].tolist()
        with path.open("a") as file:
            file.write(json.dumps({"step": run.step + 1, "samples": found}) + "\n")
        return execute(micro_batches, trained_tokens)

    run.stages.execution.train = noted  # type: ignore[method-assign]
