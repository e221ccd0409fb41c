"""The plan file: the one document that the planner writes and every rank obeys.

Schema version 1. A plan written by hand may leave out ``digest`` and ``predicted``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenft_plan.divisibility import axis_reason, may_stay_gathered, together_reason
from qwenft_plan.errors import SpecError

__all__ = [
    "CHECKPOINTING",
    "METHODS",
    "OPTIMIZERS",
    "PRECISIONS",
    "SCHEDULES",
    "SCHEMA_VERSION",
    "Plan",
    "Predicted",
]

SCHEMA_VERSION = 1
CHECKPOINTING = ("none", "selective", "full")
SCHEDULES = ("GPipe", "1F1B", "Interleaved1F1B", "ZBVZeroBubble")
PRECISIONS = ("fp32", "bf16", "fp8")
"""``fp8``: the layers' matrices multiply in 8 bits, all else is as in ``bf16``."""
METHODS = ("full", "lora", "qlora")
OPTIMIZERS = ("adamw", "adamw8bit")

_COUNTS = (
    "world_size", "nodes", "processes_per_node", "pp", "dp_replicate", "dp_shard", "tp",
    "micro_batch_size", "gradient_accumulation_steps", "global_batch_size", "sequence_length",
)  # fmt: skip
_CHOICES = {
    "activation_checkpointing": CHECKPOINTING,
    "pipeline_schedule": SCHEDULES,
    "precision": PRECISIONS,
}
_DEFAULTS: Mapping[str, Any] = {
    "method": "full",
    "optimizer": "adamw",
    "offload_optimizer": False,
    "reshard_after_forward": True,
    "compile": False,
}
"""Fields that a plan file names only where they say something else."""
_DIGEST_LENGTH = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """What the planner expects of a plan."""

    memory_gib: float
    """Peak memory of the fullest rank, GiB."""
    tokens_per_second: float
    """Tokens of the whole run, a second."""
    mfu: float
    """Model FLOPs utilisation, 0..1 of the devices' peak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Degrees, batch and memory choices of one run.

    ``world_size = nodes · processes_per_node = pp · dp_replicate · dp_shard · tp`` and
    ``global_batch_size = dp_replicate · dp_shard · micro_batch_size · gradient_accumulation_steps``
    (with ``pp`` > 1 the accumulation steps are the pipeline's micro-batches).
    """

    schema_version: int = SCHEMA_VERSION
    world_size: int
    nodes: int
    processes_per_node: int
    pp: int
    dp_replicate: int
    dp_shard: int
    tp: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    global_batch_size: int
    sequence_length: int
    activation_checkpointing: str = "none"
    pipeline_schedule: str = "1F1B"
    precision: str = "fp32"
    method: str = "full"
    """What is trained; adapters themselves are described in the request."""
    optimizer: str = "adamw"
    """``adamw8bit`` keeps its moments in 8 bits."""
    offload_optimizer: bool = False
    """Whether the host's memory holds master weights, gradients and the optimizer's moments."""
    reshard_after_forward: bool = True
    """Whether a layer's gathered weights are freed once it has run. False, for sharding without a
    pipeline, keeps them all, and gradients unreduced, through a step: memory for communication."""
    compile: bool = False
    """Whether torch compiles the layers."""
    predicted: Predicted | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that contradict each other."""
        if self.schema_version != SCHEMA_VERSION:
            message = f"{self.schema_version!r} is unknown; this version reads {SCHEMA_VERSION}"
            raise SpecError("schema_version", message)
        self._check_values()
        _agree("world_size", self.world_size, "nodes · processes_per_node",
               self.nodes * self.processes_per_node)  # fmt: skip
        _agree("world_size", self.world_size, "pp · dp_replicate · dp_shard · tp",
               self.pp * self.dp_replicate * self.dp_shard * self.tp)  # fmt: skip
        self._check_method()
        _agree("global_batch_size", self.global_batch_size,
               "dp_replicate · dp_shard · micro_batch_size · gradient_accumulation_steps",
               self.dp * self.micro_batch_size * self.gradient_accumulation_steps)  # fmt: skip

    def _check_values(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpecError(name, f"must be a whole number of at least 1, not {value!r}")
        for name in ("offload_optimizer", "reshard_after_forward", "compile"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise SpecError(name, f"must be true or false, not {value!r}")
        for name, allowed in (
            *_CHOICES.items(),
            ("method", METHODS),
            ("optimizer", OPTIMIZERS),
        ):
            if getattr(self, name) not in allowed:
                message = f"{getattr(self, name)!r} is none of {', '.join(allowed)}"
                raise SpecError(name, message)

    def _check_method(self) -> None:
        for axis, degree in (("tp", self.tp), ("pp", self.pp)):
            reason = axis_reason(
                self.method,
                axis,
                degree,
                offload=self.offload_optimizer,
                precision=self.precision,
            )
            if reason is not None:
                raise SpecError(axis, reason)
        reason = together_reason(self.method, self.optimizer, offload=self.offload_optimizer)
        if reason is not None:
            raise SpecError("offload_optimizer", reason)
        if not self.reshard_after_forward and not may_stay_gathered(
            pp=self.pp, dp_shard=self.dp_shard, offload=self.offload_optimizer
        ):
            message = "false is for plans with dp_shard > 1, pp 1 and nothing offloaded"
            raise SpecError("reshard_after_forward", message)

    @property
    def dp(self) -> int:
        """Number of data-parallel ranks, replicated and sharded together."""
        return self.dp_replicate * self.dp_shard

    @property
    def digest(self) -> str:
        """Ten hexadecimal digits of the choices' hash; predictions do not enter it."""
        canonical = json.dumps(self._choices(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGEST_LENGTH]

    def _choices(self) -> dict[str, Any]:
        names = ("schema_version", *_COUNTS, *_CHOICES)
        told = [name for name, usual in _DEFAULTS.items() if getattr(self, name) != usual]
        return {name: getattr(self, name) for name in (*names, *told)}

    def to_mapping(self) -> dict[str, Any]:
        """Return the plan file's fields, ``digest`` and ``predicted`` included."""
        mapping = self._choices() | {"digest": self.digest}
        if self.predicted is not None:
            mapping["predicted"] = {
                "memory_gib": self.predicted.memory_gib,
                "tokens_per_second": self.predicted.tokens_per_second,
                "mfu": self.predicted.mfu,
            }
        return mapping

    def to_json(self) -> str:
        """Return the plan file's text; equal plans give equal bytes."""
        return json.dumps(self.to_mapping(), indent=2) + "\n"

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Plan:
        """Read a plan's fields.

        Raises :class:`SpecError` for a missing, unknown or contradicting field, and for a
        ``digest`` that is not the one of the other fields (a plan edited by hand must drop it).
        """
        known = ("schema_version", *_COUNTS, *_CHOICES, *_DEFAULTS, "digest", "predicted")
        for key in mapping:
            if key not in known:
                raise SpecError(str(key), "is not a field of a plan file")
        for key in ("schema_version", *_COUNTS):
            if key not in mapping:
                raise SpecError(key, "is missing from the plan file")
        choices = {k: v for k, v in mapping.items() if k not in ("digest", "predicted")}
        plan = cls(**choices, predicted=_predicted(mapping.get("predicted")))
        if mapping.get("digest") not in (None, plan.digest):
            message = (
                f"{mapping['digest']!r} is not this plan's ({plan.digest}); drop it after an edit"
            )
            raise SpecError("digest", message)
        return plan

    @classmethod
    def from_json(cls, content: str) -> Plan:
        """Read a plan file's text; raises :class:`SpecError` when it is no JSON object."""
        try:
            mapping = json.loads(content)
        except (json.JSONDecodeError, RecursionError) as error:
            raise SpecError("plan", f"is not JSON: {error}") from None
        if not isinstance(mapping, dict):
            raise SpecError("plan", f"must be a JSON object, not {type(mapping).__name__}")
        return cls.from_mapping(mapping)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read the plan file at ``path``; every error names it."""
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(str(path), f"cannot be read: {error}") from None
        try:
            return cls.from_json(content)
        except SpecError as error:
            raise error.under(str(path)) from None


def _agree(name: str, value: int, formula: str, product: int) -> None:
    if value != product:
        raise SpecError(name, f"is {value} but {formula} is {product}")


def _predicted(mapping: object) -> Predicted | None:
    if mapping is None:
        return None
    if not isinstance(mapping, Mapping):
        raise SpecError("predicted", "must be a mapping")
    values = {}
    for name in ("memory_gib", "tokens_per_second", "mfu"):
        value = mapping.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpecError(f"predicted.{name}", f"must be a number, not {value!r}")
        values[name] = float(value)
    return Predicted(**values)
