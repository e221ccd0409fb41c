"""Steps that all ranks must take together, and the error when only some come."""

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from qwenft_trainer.blame import refuse, user_line
from qwenft_trainer.failure import CommunicationFailure, PlanInvalid

PATIENCE_VARIABLE = "QWENFT_PATIENCE_SECONDS"
PATIENCE_SECONDS = 300.0
"""How long the others are waited for. Longer than a rank may lag behind between two batches."""
EVERY_RANK = (
    "under a plan every rank must call it, as often as the others, so take it out of "
    "`if rank == 0` (only rank 0 writes files anyway) and let no rank end early"
)

_meeting: list[Any] = []


def prepare_to_meet() -> None:
    """Make the group in which ranks meet, for its time limit is its own. Collective."""
    if dist.get_world_size() > 1:
        _meeting[:] = [dist.new_group(backend="gloo", timeout=patience())]


def patience() -> timedelta:
    """Return how long the others are waited for."""
    return timedelta(seconds=float(os.environ.get(PATIENCE_VARIABLE) or PATIENCE_SECONDS))


def meet(what: str) -> None:
    """Wait for all ranks before ``what``; raises :class:`PlanInvalid` naming the likely reason."""
    _agree(what, 0)


def check_same_batch(tensors: Sequence[Tensor | None]) -> None:
    """Refuse a batch that is not the same on every rank, or a rank that has none. Collective."""
    if dist.get_world_size() > 1 and not _agree("a call of the model", fingerprint(tensors)):
        refuse(
            "the ranks were given different batches",
            "every rank must load the same global batch: take out DistributedSampler and shards "
            "by rank, and seed every generator alike",
        )


def _agree(what: str, digest: int) -> bool:
    """Wait for all ranks to come to the same ``what``; tell whether their digests are the same.

    One small reduction for all that ranks meet for: a rank that came to something else is found
    out at once, one that comes to nothing after :func:`patience`.
    """
    if dist.get_world_size() == 1:
        return True
    place = int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8).digest(), "big") >> 2
    extremes = torch.tensor([place, -place, digest, -digest])
    with _waiting(what):
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=_meeting[0])
    largest, smallest, most, least = extremes.tolist()
    if largest != -smallest:
        _refuse_parting(what)
    return bool(most == -least)


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Say who is missing where ranks wait for one that does not come."""
    here = user_line()
    try:
        yield
    except RuntimeError as error:
        if "imed out" not in str(error):
            raise CommunicationFailure(f"{here}: a rank was lost before {what}: {error}") from error
        raise PlanInvalid(
            f"{here}: not all ranks came to {what} within {patience().total_seconds():.0f} s: "
            f"{EVERY_RANK}: {error}"
        ) from None


def _refuse_parting(what: str) -> NoReturn:
    """Name what each rank came to, and where."""
    mine = f"{what} ({user_line()})"
    everyone: list[Any] = [None] * dist.get_world_size()
    with _waiting(what):
        dist.all_gather_object(everyone, mine, group=_meeting[0])
    others = next(other for other in everyone if other != mine)
    raise PlanInvalid(
        f"{user_line()}: not all ranks came to {what}: rank {everyone.index(others)} came to "
        f"{others}; {EVERY_RANK}"
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
