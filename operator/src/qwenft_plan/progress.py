"""What a run reports while it trains: the body's ``qwenft`` part and the status' ``progress``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from qwenft_plan.errors import SpecError

__all__ = ["Progress"]

_INTEGERS = ("attempt", "step", "total_steps", "checkpoint_step")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    # "GiB" keeps the spelling of the unit.
    return first + "".join("GiB" if part == "gib" else part.capitalize() for part in rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One report of global rank 0. Fields that a run does not know yet are None."""

    attempt: int
    step: int
    """Optimizer steps done, over all attempts."""
    total_steps: int
    epoch: float | None = None
    """Passes over the data done, 1.5 = half through the second."""
    loss: float | None = None
    """Mean cross-entropy of the last step's trained tokens, nats."""
    validation_loss: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    """Real (not padded) tokens of the whole run, a second."""
    memory_gib: float | None = None
    """Measured peak of the fullest rank, GiB."""
    mfu: float | None = None
    estimated_remaining_seconds: float | None = None
    checkpoint_step: int | None = None
    """Step of the newest whole checkpoint."""
    checkpoint_seconds: float | None = None
    """How long the last save took until it was whole."""
    checkpoint_blocked_seconds: float | None = None
    """How long training waited for the last save."""
    data_wait_seconds: float | None = None
    """How long a step waits for its rows, in the median of the last steps."""
    predicted_memory_gib: float | None = None
    """The plan's prediction, to be read beside ``memory_gib``."""
    plan_digest: str | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Return the JSON body's fields in camelCase; unknown ones are left out."""
        values = {_camel(field.name): getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Progress:
        """Read a report; unknown fields are ignored: an older operator reads a newer trainer.

        Raises :class:`SpecError` for a missing or non-finite number.
        """
        values = {}
        for field in fields(cls):
            value = mapping.get(_camel(field.name))
            if value is not None:
                values[field.name] = _checked(field.name, value)
        for name in ("attempt", "step", "total_steps"):
            if name not in values:
                raise SpecError(_camel(name), "is missing from the report")
        return cls(**values)


def _checked(name: str, value: object) -> Any:
    if name == "plan_digest":
        if not isinstance(value, str) or len(value) > 64:  # noqa: PLR2004 - far above a digest
            raise SpecError(_camel(name), "must be a short string")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(_camel(name), f"must be a number, not {type(value).__name__}")
    if name in _INTEGERS:
        if not isinstance(value, int) or not 0 <= value < 2**53:
            raise SpecError(_camel(name), f"must be a whole number from 0, not {value!r}")
        return value
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise SpecError(_camel(name), "must be finite")
    return number
