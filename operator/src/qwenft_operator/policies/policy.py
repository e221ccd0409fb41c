"""The shape of a rule: a failure goes in, a verdict or nothing comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qwenft_operator.failure import Failure
from qwenft_plan.plan import Plan

__all__ = ["BEGINS_ANEW", "Circumstances", "Policy", "Verdict"]

BEGINS_ANEW = (
    "the script starts from its beginning: a script's own loop is not resumed "
    "(docs/howto/own-script.md)"
)
"""What a later attempt of a user's own script does, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """What a rule may weigh besides the failure itself."""

    failure: Failure
    trained: bool
    """Whether this attempt has trained a step."""
    plan: Plan | None = None
    """The plan that the attempt ran."""
    checkpoint_step: int | None = None
    """Step of the newest checkpoint, None where none was reported."""
    went_back: bool = False
    """Whether an older checkpoint than the newest was tried before."""
    memory_request: int | None = None
    """Bytes that each pod asked for and was limited to; None: no limit."""
    memory_raised: bool = False
    """Whether that request was raised before."""
    script: bool = False
    """Whether the run has a script of its own in place of the built-in loop."""

    @property
    def way_on(self) -> str:
        """What the next attempt starts from."""
        return BEGINS_ANEW if self.script else "goes on from the last checkpoint"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What follows from a failure."""

    restart: bool
    counted: bool = True
    """Whether a restart counts against ``backoffLimit``."""
    memory_budget: float | None = None
    """GiB a device that the next plan may count on at most; None changes nothing."""
    before_step: int | None = None
    """Go on from a checkpoint of an earlier step than this; None takes the newest."""
    memory_request: int | None = None
    """Bytes that each pod asks for from now on; None changes nothing."""
    advice: str = ""
    """What a person should do, or what happens next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """One rule, with the sentences by which it is documented."""

    cause: str
    decision: str
    judge: Callable[[Circumstances], Verdict | None]
    """Returns None where the rule does not apply."""
