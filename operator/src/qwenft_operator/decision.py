"""What is to be done, as data: decided by pure functions, executed by :mod:`reconcile`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Decision", "Deletion", "Notice"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Deletion:
    """One object to delete; the uid keeps a namesake that came later from being hit."""

    kind: str
    name: str
    uid: str
    grace: int | None = None
    """Seconds that a pod's processes still have; None is the pod's own, 0 forces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """An Event on the run."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The next step of one run.

    Executed in the order of the fields: objects are made before the status tells of them, and what
    the status must remember is written before its evidence is deleted.
    """

    apply: tuple[dict[str, Any], ...] = ()
    hand_over: tuple[dict[str, Any], ...] = ()
    """Of those the ones that belong to the last, a Job, once it is there."""
    status: Mapping[str, Any] | None = None
    """The whole new status; None leaves it as it is."""
    events: tuple[Notice, ...] = ()
    delete: tuple[Deletion, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to look again although nothing happened."""
    gives_way: bool = False
    """Whether the run could start, and lets another go first that could start too."""
    wants_capacity: bool = False
    """Whether the decision can only be made with the cluster's capacity at hand."""
    goes_on: bool = False
    """Whether an attempt runs meanwhile, and only asks whether it could run better."""
