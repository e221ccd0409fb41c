"""Doing something once on every node, by its first rank, where nodes share no directory."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from qwenft_trainer.failure import TrainerError

Value = TypeVar("Value")


def local_rank() -> int:
    """Return this process's number on its node."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def local_size() -> int:
    """Return the number of processes on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def on_each_node(action: Callable[[], Value], group: dist.ProcessGroup | None = None) -> Value:
    """Run ``action`` on the first rank of each node; every rank gets its node's value. Collective.

    Where it fails on any node, every rank raises the first node's error.
    """
    outcomes = _gathered(action if local_rank() == 0 else None, group)
    value: Value = outcomes[dist.get_rank() - local_rank()]
    return value


def on_each_rank(action: Callable[[], Value], group: dist.ProcessGroup | None = None) -> Value:
    """Run ``action`` on all ranks; where it fails on one, all of them raise. Collective."""
    value: Value = _gathered(action, group)[dist.get_rank()]
    return value


def _gathered(action: Callable[[], Any] | None, group: dist.ProcessGroup | None) -> list[Any]:
    outcome: tuple[Any, Exception | None] = (None, None)
    if action is not None:
        try:
            outcome = (action(), None)
        except (TrainerError, OSError) as error:
            outcome = (None, error)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, outcome, group=group)
    for _, failure in everyone:
        if failure is not None:
            raise failure
    return [value for value, _ in everyone]
