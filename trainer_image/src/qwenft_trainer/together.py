"""Steps that all ranks must take together, and the error when only some come."""

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qwenft_trainer.blame import refuse, user_line
from qwenft_trainer.failure import PlanInvalid

PATIENCE_VARIABLE = "QWENFT_PATIENCE_SECONDS"
PATIENCE_SECONDS = 300.0
"""How long the others are waited for. Longer than a rank may lag behind between two batches."""

_meeting: list[Any] = []


def prepare_to_meet() -> None:
    """Make the group in which ranks meet. Collective.

    It is a group of its own for its time limit: in torch's monitored barrier rank 0 waits as long
    as the call says, but every other rank as long as its group does, which is half an hour.
    """
    if dist.get_world_size() > 1:
        _meeting[:] = [dist.new_group(backend="gloo", timeout=patience())]


def patience() -> timedelta:
    """Return how long the others are waited for."""
    return timedelta(seconds=float(os.environ.get(PATIENCE_VARIABLE) or PATIENCE_SECONDS))


def meet(what: str) -> None:
    """Wait for all ranks before ``what``; raises :class:`PlanInvalid` naming the likely reason."""
    if dist.get_world_size() == 1:
        return
    here = user_line()
    try:
        dist.monitored_barrier(group=_meeting[0], timeout=patience(), wait_all_ranks=True)
    except RuntimeError as error:
        raise PlanInvalid(
            f"{here}: not all ranks came to {what}: under a plan every rank must call it, so take "
            f"it out of `if rank == 0` (only rank 0 writes files anyway): {error}",
        ) from None


def check_same_batch(tensors: Sequence[Tensor | None]) -> None:
    """Refuse a batch that is not the same on every rank. Collective."""
    if dist.get_world_size() == 1:
        return
    digest = fingerprint(tensors)
    extremes = torch.tensor([digest, -digest])
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    if int(extremes[0]) != -int(extremes[1]):
        refuse(
            "the ranks were given different batches",
            "every rank must load the same global batch: take out DistributedSampler and shards "
            "by rank, and seed every generator alike",
        )


def fingerprint(tensors: Sequence[Tensor | None]) -> int:
    """Hash tensors' shapes and contents into 62 bits."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
            continue
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "big") >> 2


def share_random_state() -> None:
    """Give every rank rank 0's random state, so that shuffling is the same everywhere."""
    states = [(torch.get_rng_state(), random.getstate(), _numpy_state())]
    dist.broadcast_object_list(states)
    torch_state, python_state, numpy_state = states[0]
    torch.set_rng_state(torch_state)
    random.setstate(python_state)
    if numpy_state is not None:
        import numpy as np  # noqa: PLC0415 - only where the script's libraries have it

        np.random.set_state(numpy_state)  # noqa: NPY002 - the state that old scripts draw from


@contextmanager
def user_random_state() -> Iterator[None]:
    """Leave the random state as the user left it, whatever the plan draws."""
    before = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device)


def _numpy_state() -> Any:
    try:
        import numpy as np  # noqa: PLC0415 - see share_random_state
    except ImportError:
        return None
    return np.random.get_state()  # noqa: NPY002
