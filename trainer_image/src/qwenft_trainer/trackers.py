"""Curves in TensorBoard, Weights & Biases and MLflow, under the names that Hugging Face gives them.

The libraries' own writers do the work, in a thread: an address that does not answer, or a full
disk, costs a line in the log and never a step. Addresses and keys come from the libraries' own
environment variables.
"""

import importlib.util
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from qwenft_plan.progress import Progress
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.settings import Settings

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
PROJECT = "qwenft"
WAITING = 1000
"""Steps that may wait to be written; further ones are left out."""
END_SECONDS = 10.0
"""How long a run that is asked to stop waits for what is not written yet."""
FINISH_SECONDS = 60.0
"""The same at a run's own end: MLflow alone may take a quarter of a minute to make its tables."""
_PLAN = ("world_size", "pp", "dp_replicate", "dp_shard", "tp", "micro_batch_size",
         "gradient_accumulation_steps")  # fmt: skip
_NAMES = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "gradient_norm": "train/grad_norm",
    "epoch": "train/epoch",
    "tokens_per_second": "train/tokens_per_second",
    "mfu": "train/mfu",
    "memory_gib": "train/memory_gib",
    "predicted_memory_gib": "train/predicted_memory_gib",
    "data_wait_seconds": "train/data_wait_seconds",
    "checkpoint_seconds": "train/checkpoint_seconds",
    "checkpoint_blocked_seconds": "train/checkpoint_blocked_seconds",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a tracker is told of the run; ``settings`` are its hyper-parameters."""

    name: str
    identity: str
    logs: Path
    settings: Mapping[str, Any]
    begin: int = 0
    """The step after which this attempt goes on."""


def about(settings: Settings, *, begin: int) -> About:
    """Return what trackers are told of a run that goes on after step ``begin``."""
    plan = {name: getattr(settings.plan, name) for name in _PLAN}
    model = settings.spec.model
    return About(
        name=os.environ.get("QWENFT_NAME") or PROJECT,
        identity=settings.identity,
        logs=settings.logs,
        settings={"model": model.name or model.path, **asdict(settings.spec.training), **plan},
        begin=begin,
    )


class Tracker(Protocol):
    """One library's writer."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write values of a step."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files in ``logs``."""

    def __init__(self, about: About) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - slow, and rarely asked for

        # What a lost attempt wrote of steps that are trained again is taken back.
        make: Any = SummaryWriter
        self._writer = make(log_dir=str(about.logs), purge_step=about.begin + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write values of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; attempts of one run go on with the same curves."""

    def __init__(self, about: About) -> None:
        wandb: Any = importlib.import_module("wandb")
        about.logs.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", about.name),
            id=os.environ.get("WANDB_RUN_ID", about.identity),
            resume="allow",
            dir=str(about.logs),
            config=dict(about.settings),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write values of a step."""
        self._run.log({**values, "train/global_step": step}, step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class MLflow:
    """A run of MLflow; without ``MLFLOW_TRACKING_URI`` in a database under ``logs``."""

    def __init__(self, about: About) -> None:
        self._mlflow: Any = importlib.import_module("mlflow")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            about.logs.mkdir(parents=True, exist_ok=True)
            self._mlflow.set_tracking_uri(f"sqlite:///{about.logs}/mlflow.db")
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        self._mlflow.start_run(run_name=about.name)
        self._mlflow.log_params(dict(about.settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write values of a step, under the names that Hugging Face gives them here."""
        plain = {name.removeprefix("train/").replace("/", "_"): v for name, v in values.items()}
        self._mlflow.log_metrics(plain, step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


KINDS: Mapping[str, Callable[[About], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class Trackers:
    """All trackers of a run, written to by one thread. Rank 0 has them."""

    def __init__(
        self,
        names: Sequence[str],
        about: About,
        kinds: Mapping[str, Callable[[About], Tracker]] = KINDS,
    ) -> None:
        self._about = about
        self._makers = {name: kinds[name] for name in names}
        self._waiting: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        if names:
            self._thread = threading.Thread(target=self._run, daemon=True, name="trackers")
            self._thread.start()

    def update(self, progress: Progress) -> None:
        """Hand a step over; never waits."""
        self._hand_over(progress.step, values_of(progress))

    def evaluated(self, step: int, loss: float | None) -> None:
        """Hand a validation loss over; never waits."""
        if loss is not None:
            self._hand_over(step, {"eval/loss": loss})

    def _hand_over(self, step: int, values: dict[str, float]) -> None:
        if self._thread is not None and not self._waiting.full():
            self._waiting.put_nowait((step, values))

    def close(self, *, patience: float = END_SECONDS) -> None:
        """Write what is waiting, for at most ``patience`` seconds; tells if that was too little."""
        if self._thread is None:
            return
        end = time.monotonic() + patience
        try:
            self._waiting.put(None, timeout=patience)
        except queue.Full:
            pass
        else:
            self._thread.join(timeout=max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            names = ", ".join(self._makers)
            print(  # noqa: T201 - the log of the pod
                f"{names}: not everything was written within {patience:.0f} s; curves end early",
                file=sys.stderr,
                flush=True,
            )
        self._thread = None

    def _run(self) -> None:
        made = {name: _Tried(name) for name in self._makers}
        trackers = {name: made[name](make, self._about) for name, make in self._makers.items()}
        while (item := self._waiting.get()) is not None:
            for name, tracker in trackers.items():
                if tracker is not None:
                    made[name](tracker.log, *item)
        for name, tracker in trackers.items():
            if tracker is not None:
                made[name](tracker.close)


class _Tried:
    """Calls into one library, whose errors are no errors of the run: told once until it works."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._told = False

    def __call__(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Return what ``action`` returns, None where it fails."""
        try:
            result = action(*arguments)
        except Exception as error:  # noqa: BLE001 - a tracker must never end a training run
            self._tell(f"{type(error).__name__}: {error}")
            return None
        self._told = False
        return result

    def _tell(self, what: str) -> None:
        if not self._told:
            text = f"{self._name}: {what}; training goes on without it"
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - the log of the pod
        self._told = True


def check(names: Sequence[str]) -> None:
    """Refuse trackers whose package is not installed; raises :class:`PlanInvalid`."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise PlanInvalid(
                f"training.reportTo names {name}, but the package {PACKAGES[name]!r} is not "
                "installed: take an image that has it (trainer.image), or leave it out"
            )


def values_of(progress: Progress) -> dict[str, float]:
    """Return a report's values under Hugging Face's names; those not known (yet) are left out."""
    values = {name: getattr(progress, field) for field, name in _NAMES.items()}
    return {name: float(value) for name, value in values.items() if value is not None}
