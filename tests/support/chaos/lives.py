"""Whole lives of one run: what its pods do, what its user does, and when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from chaos.api import AdminApi
from chaos.kubelet import Ending, Program
from qwenft_operator import names
from simulated.builders import CONFIG, run_body

__all__ = ["LIVES", "RUN", "Life", "User"]

RUN = "tiny"
LONGEST = 150.0
_DONE = Ending(seconds=0.3, code=0, message={"exitCode": 0, "reason": "Completed",
               "result": {"steps": 100, "outputPath": "/data/out/model"}})  # fmt: skip


class User:
    """Somebody who wants a run, and looks at its status."""

    def __init__(self, api: AdminApi, namespace: str, *, patience: float = LONGEST) -> None:
        self._api = api
        self._namespace = namespace
        self._patience = patience

    async def create(self, **sections: Any) -> None:
        """Create the run."""
        await self._api.create("Run", run_body(RUN, self._namespace, **sections))

    async def suspend(self, *, suspended: bool) -> None:
        """Suspend or resume the run."""
        patch = {"spec": {"runPolicy": {"suspend": suspended}}}
        await self._api.patch("Run", self._namespace, RUN, patch)

    async def delete(self) -> None:
        """Delete the run."""
        await self._api.delete("Run", self._namespace, RUN)

    async def uid(self) -> str | None:
        """Return the uid of the run that is there now."""
        body = await self._api.get("Run", self._namespace, RUN)
        return None if body is None else str(body["metadata"]["uid"])

    async def sees(self, *phases: str, word: str = "") -> None:
        """Wait until the run is in one of the phases."""
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            body = await self._api.get("Run", self._namespace, RUN) or {}
            status = body.get("status") or {}
            if status.get("phase") in phases and word in status.get("message", ""):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"{self._namespace} never {phases} {word!r}: {status}")
            await asyncio.sleep(0.1)

    async def sees_nothing(self) -> None:
        """Wait until nothing of the run is left."""
        deadline = asyncio.get_running_loop().time() + self._patience
        for kind in ("Run", "Pod", "Job", "Service", "NetworkPolicy"):
            while await self._api.list(kind, self._namespace):
                if asyncio.get_running_loop().time() > deadline:
                    raise TimeoutError(f"{self._namespace}: there is still a {kind}")
                await asyncio.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class Life:
    """One life."""

    program: Program
    script: Callable[[User], Awaitable[None]]
    sections: dict[str, Any] = field(default_factory=dict)


async def _ends(user: User) -> None:
    await user.sees(*names.TERMINAL)


async def _is_suspended_and_resumed(user: User) -> None:
    await user.sees(names.STARTING, word="2 of 2 pods run")
    await user.suspend(suspended=True)
    await user.sees(names.SUSPENDED, word="set spec.runPolicy.suspend")
    await user.suspend(suspended=False)
    await user.sees(*names.TERMINAL)


async def _is_deleted(user: User) -> None:
    await user.sees(names.STARTING, word="2 of 2 pods run")
    await user.delete()
    await user.sees_nothing()


def _succeeds(_attempt: int, _rank: int) -> Ending | None:
    return _DONE


def _stays(_attempt: int, _rank: int) -> Ending | None:
    return None


def _first_stays(attempt: int, _rank: int) -> Ending | None:
    return None if attempt == 1 else _DONE


def _first_fails(code: int, reason: str = "") -> Program:
    message = {"exitCode": code, "reason": reason, "message": "boom", "rank": 1} if reason else None

    def program(attempt: int, rank: int) -> Ending | None:
        if attempt > 1:
            return _DONE
        return Ending(seconds=0.3, code=code, message=message) if rank == 1 else None

    return program


def _dataset_is_broken(_attempt: int, rank: int) -> Ending | None:
    message = {"exitCode": 65, "reason": "DatasetInvalid", "message": "no such file", "rank": 0}
    return Ending(seconds=0.3, code=65, message=message) if rank == 0 else None


# Large enough for micro-batches of more than one row, of which a failure leaves fewer.
_ROOMY: dict[str, Any] = {
    "model": {"config": CONFIG | {"hidden_size": 512, "intermediate_size": 2048,
                                  "vocab_size": 32000, "num_hidden_layers": 8,
                                  "num_attention_heads": 8, "num_key_value_heads": 8,
                                  "max_position_embeddings": 1024}},
    "training": {"batchSize": 64, "sequenceLength": 1024},
}  # fmt: skip
LIVES = {
    "succeeds": Life(program=_succeeds, script=_ends),
    "restarts": Life(program=_first_fails(137), script=_ends),
    "fails": Life(program=_dataset_is_broken, script=_ends),
    "suspended": Life(program=_first_stays, script=_is_suspended_and_resumed),
    "replanned": Life(program=_first_fails(68, "OutOfMemory"), script=_ends, sections=_ROOMY),
    "deleted": Life(program=_stays, script=_is_deleted),
}
