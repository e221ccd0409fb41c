"""What the built-in loop is told: the plan, the request, and who this attempt is."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenft_plan.errors import SpecError
from qwenft_plan.places import is_url
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec, Training
from qwenft_trainer import planfile
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.remote import Store

RUN_VARIABLE = "QWENFT_RUN"
BEFORE_VARIABLE = "QWENFT_CHECKPOINT_BEFORE_STEP"
"""Asks for a checkpoint of fewer steps: those from this step on led to a loss that is no number."""
SCRATCH_VARIABLE = "QWENFT_SCRATCH"
"""Names a directory of this node for what comes from URLs and goes to them."""
_SECTIONS = ("model", "dataset", "training")
_MAY_CHANGE = ("epochs", "maxSteps", "reportTo")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One attempt of one run.

    ``identity`` tells runs apart: a checkpoint of another one, in the same directory, is not ours.
    ``before_step``: only checkpoints of fewer steps are gone on from; None: any. ``scratch`` is a
    directory of this node, for what comes from URLs and goes to them.
    """

    plan: Plan
    spec: FinetuneSpec
    attempt: int
    identity: str
    before_step: int | None = None
    name: str = "qwenft"
    scratch: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "qwenft")

    @property
    def remote(self) -> Store | None:
        """The store that the output goes to; None where it is a directory."""
        url = self.spec.output.path
        return Store(url) if is_url(url) else None

    @property
    def output(self) -> Path:
        """Where the output is written; with a URL this node's own copy of it."""
        return (
            self.scratch / "output"
            if is_url(self.spec.output.path)
            else Path(self.spec.output.path)
        )

    def told(self, place: Path) -> str:
        """Return where users find a file or folder of the output."""
        if not is_url(self.spec.output.path):
            return str(place)
        return f"{self.spec.output.path}/{place.relative_to(self.output).as_posix()}"

    @property
    def converts_apart(self) -> bool:
        """Whether each node converts the dataset for itself: nothing is shared, or it came here."""
        return is_url(self.spec.output.path) or is_url(self.spec.dataset.path)

    @property
    def converted(self) -> Path:
        """Where a dataset goes that is converted once."""
        return (self.scratch if self.converts_apart else self.output) / "dataset"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.output / "checkpoints"

    @property
    def logs(self) -> Path:
        """Where trackers keep their files."""
        return self.output / "logs"

    @property
    def best_directory(self) -> Path:
        """Where the model of the lowest validation loss goes, if it is kept."""
        return self.output / "best-model"

    @property
    def model_directory(self) -> Path:
        """Where the finished model goes."""
        return self.output / "model"

    @property
    def adapter_directory(self) -> Path:
        """Where trained adapters go, whether or not they are merged as well."""
        return self.output / "adapter"

    @property
    def result_directory(self) -> Path:
        """What a user loads in the end."""
        alone = self.spec.training.adapters is not None and not self.spec.output.merge_adapter
        return self.adapter_directory if alone else self.model_directory


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the plan and run files that the environment names.

    Raises :class:`PlanInvalid` for a missing or damaged file.
    """
    plan = planfile.load(environ, world_size=int(environ.get("WORLD_SIZE", "1")))
    if plan is None:
        raise PlanInvalid(f"{planfile.VARIABLE} names no plan; the built-in loop needs one")
    run = _read_run(environ.get(RUN_VARIABLE, ""))
    try:
        spec = FinetuneSpec.from_mapping(run["spec"])
        attempt = int(environ.get("QWENFT_ATTEMPT") or 1)
        before = environ.get(BEFORE_VARIABLE)
        before_step = int(before) if before else None
    except (SpecError, KeyError, ValueError) as error:
        raise PlanInvalid(f"{environ.get(RUN_VARIABLE)}: {error}") from error
    if spec.training.batch_size != plan.global_batch_size:
        raise PlanInvalid(
            f"the plan's global_batch_size {plan.global_batch_size} is not the request's "
            f"training.batchSize {spec.training.batch_size}"
        )
    _check_method(plan, spec.training)
    return Settings(
        plan=plan,
        spec=spec,
        attempt=attempt,
        identity=_identity(run),
        before_step=before_step,
        name=str(run.get("name") or "qwenft"),
        scratch=_scratch(environ, str(run.get("uid", ""))),
    )


def _scratch(environ: Mapping[str, str], uid: str) -> Path:
    """Return the directory for copies: the one that is named, else one in the pod's own /tmp."""
    named = environ.get(SCRATCH_VARIABLE)
    return Path(named) if named else Path(tempfile.gettempdir()) / f"qwenft-{uid}"


def _check_method(plan: Plan, training: Training) -> None:
    asked = {
        "method": (plan.method, training.method),
        "optimizer": (plan.optimizer, training.optimizer),
        "offloadOptimizer": (plan.offload_optimizer, training.offload_optimizer),
    }
    for name, (planned, wanted) in asked.items():
        if planned != wanted:
            raise PlanInvalid(
                f"the plan is for {name} {planned}, but the request's training.{name} is {wanted}"
            )


def _read_run(path: str) -> Mapping[str, Any]:
    if not path:
        raise PlanInvalid(f"{RUN_VARIABLE} names no run file; the built-in loop needs one")
    try:
        run = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanInvalid(f"{RUN_VARIABLE}: {path} cannot be read: {error}") from error
    if not isinstance(run, dict) or not isinstance(run.get("spec"), dict):
        raise PlanInvalid(f'{RUN_VARIABLE}: {path} must hold a JSON object with "spec"')
    return run


def _identity(run: Mapping[str, Any]) -> str:
    """Hash what makes two runs the same: who asked, and for what (but not for how long)."""
    parts = {name: run["spec"].get(name) for name in _SECTIONS}
    training = parts["training"] or {}
    parts["training"] = {k: v for k, v in training.items() if k not in _MAY_CHANGE}
    text = json.dumps([run.get("uid"), parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
