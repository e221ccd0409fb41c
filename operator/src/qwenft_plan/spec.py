"""The user's request, parsed once at the edge: ``spec`` of a ``QwenFineTune``.

Attributes are the CRD's fields in snake_case, one for one (a test holds the two together). The
operator reads it from the API, the trainer from ``run.json``, the command line from a file: one
parser for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwenft_plan import fields, parsing
from qwenft_plan.divisibility import fp8_reason, together_reason
from qwenft_plan.errors import SpecError
from qwenft_plan.sections import (
    MATRICES,
    Checkpoint,
    Dataset,
    EnvFrom,
    EnvVar,
    Hub,
    Lora,
    Model,
    Network,
    NodeRange,
    Output,
    Parallelism,
    Resources,
    RunPolicy,
    Script,
    SecretRef,
    Toleration,
    Trainer,
    Training,
    Volume,
)

__all__ = [
    "MATRICES",
    "Checkpoint",
    "Dataset",
    "EnvFrom",
    "EnvVar",
    "FinetuneSpec",
    "Hub",
    "Lora",
    "Model",
    "Network",
    "NodeRange",
    "Output",
    "Parallelism",
    "Resources",
    "RunPolicy",
    "Script",
    "SecretRef",
    "Toleration",
    "Trainer",
    "Training",
    "Volume",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSpec:
    """The whole request."""

    model: Model
    dataset: Dataset
    output: Output
    training: Training = field(default_factory=Training)
    resources: Resources = field(default_factory=Resources)
    parallelism: Parallelism = field(default_factory=Parallelism)
    trainer: Trainer = field(default_factory=Trainer)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    run_policy: RunPolicy = field(default_factory=RunPolicy)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> FinetuneSpec:
        """Parse ``spec``; raises :class:`SpecError` with the field's path."""
        if not isinstance(mapping, Mapping):
            raise SpecError("spec", f"must be a mapping, not {type(mapping).__name__}")
        fields.only_known(mapping, tuple(_SECTIONS), "spec")
        parts: dict[str, Any] = {
            name: parse(fields.section(mapping, key, "spec"), f"spec.{key}")
            for key, (name, parse) in _SECTIONS.items()
        }
        spec = cls(**parts)
        _check_mounts(spec)
        if spec.checkpoint.keep_best and spec.training.evaluate_every_steps is None:
            raise SpecError("spec.checkpoint.keepBest", "needs training.evaluateEverySteps")
        _check_method(spec)
        return spec


def _check_mounts(spec: FinetuneSpec) -> None:
    """Two fields that name one mount point must name one claim."""
    claims: dict[str, tuple[str, str]] = {}
    for name in ("model", "dataset", "output"):
        part = getattr(spec, name)
        if part.volume is None or not part.path:
            continue
        mount = "/" + part.path.split("/")[1]
        claim, first = claims.setdefault(mount, (part.volume.claim_name, name))
        if claim != part.volume.claim_name:
            message = (
                f"{mount} is already the claim {claim!r} of spec.{first}; use another directory"
            )
            raise SpecError(f"spec.{name}.volume", message)


def _check_method(spec: FinetuneSpec) -> None:
    """Refuse a method where a script trains, fields without effect and contradictions."""
    training = spec.training
    if training.lora is not None and training.method == "full":
        raise SpecError("spec.training.lora", "is for spec.training.method: lora or qlora")
    if spec.output.merge_adapter and training.method != "lora":
        message = "is for spec.training.method: lora"
        if training.method == "qlora":
            message += "; weights in 4 bits cannot take up an adapter, load it beside the model"
        raise SpecError("spec.output.mergeAdapter", message)
    reason = together_reason(
        training.method, training.optimizer, offload=training.offload_optimizer
    )
    if reason is not None:
        raise SpecError("spec.training.offloadOptimizer", reason)
    reason = fp8_reason(training.precision, training.method)
    if reason is not None:
        raise SpecError("spec.training.precision", reason)
    if spec.trainer.script is not None:
        _check_script(spec)


def _check_script(spec: FinetuneSpec) -> None:
    training = spec.training
    if spec.output.hub is not None:
        message = "is done by the built-in loop only; a script sends its model by itself"
        raise SpecError("spec.output.hub", message)
    own = {
        "method": training.method != "full",
        "optimizer": training.optimizer != "adamw",
        "offloadOptimizer": training.offload_optimizer,
    }
    for name, asked in own.items():
        if asked:
            message = "is done by the built-in loop only; a script trains in its own way"
            raise SpecError(f"spec.training.{name}", message)


_SECTIONS = {
    "model": ("model", parsing.model),
    "dataset": ("dataset", parsing.dataset),
    "output": ("output", parsing.output),
    "training": ("training", parsing.training),
    "resources": ("resources", parsing.resources),
    "parallelism": ("parallelism", parsing.parallelism),
    "trainer": ("trainer", parsing.trainer),
    "checkpoint": ("checkpoint", parsing.checkpoint),
    "runPolicy": ("run_policy", parsing.run_policy),
}
