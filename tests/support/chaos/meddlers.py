"""What goes wrong between the operator and the apiserver."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from chaos.gate import Answer, Call, Cut, Meddler, refusal

__all__ = ["FAULTS", "Executioner", "Silence", "Spoiler", "Undiscovered"]


class Executioner(Meddler):
    """Kills the operator around writes: even ordinals before the write, odd ones after it."""

    def __init__(self, kill: Callable[[], None], at: Container[int] = ()) -> None:
        self._kill = kill
        self._at = at
        self.writes: list[str] = []
        self.struck: list[str] = []

    async def before(self, call: Call) -> Answer | None:
        """Count the write, or strike before it takes effect."""
        if call.writes:
            self.writes.append(call.told)
            self._strike(2 * len(self.writes) - 2, f"before {call.told}")
        return None

    async def after(self, call: Call, answer: Answer) -> Answer:
        """Strike when the write has taken effect and nobody knows."""
        if call.writes:
            self._strike(2 * len(self.writes) - 1, f"after {call.told}")
        return answer

    def _strike(self, ordinal: int, what: str) -> None:
        if ordinal in self._at:
            self.struck.append(what)
            self._kill()
            raise Cut


class Silence(Meddler):
    """Answers nothing any more once it has fallen."""

    def __init__(self) -> None:
        self.fallen = asyncio.Event()
        self.over = asyncio.Event()

    async def before(self, call: Call) -> Answer | None:
        """Let the operator wait."""
        del call
        if self.fallen.is_set():
            await self.over.wait()
            raise Cut
        return None

    async def event(self, call: Call, line: bytes) -> list[bytes]:
        """Tell of nothing."""
        del call
        return [] if self.fallen.is_set() else [line]


class Undiscovered(Meddler):
    """Refuses to tell which resources there are."""

    def __init__(self) -> None:
        self.refused = 0

    async def before(self, call: Call) -> Answer | None:
        """Refuse ``/api``, ``/apis`` and the groups below them; resources are served."""
        if _DISCOVERY.fullmatch(call.path) is None:
            return None
        self.refused += 1
        return REFUSALS["503"]


REFUSALS = {
    "409": refusal(409, "Conflict"),
    "429": refusal(429, "TooManyRequests", Retry_After="1"),
    "500": refusal(500, "InternalError"),
    "503": refusal(503, "ServiceUnavailable"),
}
FAULTS = (*REFUSALS, "hang", "lost", "cut", "stale", "dropped", "doubled", "410", "watch cut")
"""Every way in which an answer or an event can be spoilt."""
_GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired",
         "message": "too old resource version (injected)"}}  # fmt: skip
_DISCOVERY = re.compile(r"/api(/v1)?|/apis(/[^/]+){0,2}")
_HANG = 2.0
_STALE = 1.5
_KEPT = 0.3
"""Share of the answers that replace what may be served again later."""


@dataclass(kw_only=True)
class _Memory:
    """An answer that was true once."""

    answer: Answer
    until: float = 0.0


class Spoiler(Meddler):
    """Spoils what a seed says: three kinds of faults, each exchange with some chance, for a while.

    Everything is let through after ``most`` faults: a life must be able to end.
    """

    def __init__(self, seed: int, *, most: int = 25) -> None:
        self._random = random.Random(seed)  # noqa: S311 - chance for a test, not for a secret
        self.kinds = tuple(self._random.sample(FAULTS, 3))
        self._chance = self._random.choice((0.08, 0.15, 0.3))
        self._left = most
        self._memories: dict[str, _Memory] = {}
        self.done: list[str] = []

    def _spoils(self, *kinds: str) -> str:
        """Return which of these faults happens now, empty for none."""
        possible = [kind for kind in kinds if kind in self.kinds]
        if not possible or self._left <= 0 or self._random.random() > self._chance:
            return ""
        self._left -= 1
        self.done.append(self._random.choice(possible))
        return self.done[-1]

    async def before(self, call: Call) -> Answer | None:
        """Refuse, hang, or remember."""
        now = asyncio.get_running_loop().time()
        old = self._memories.get(call.target)
        if old is not None and now < old.until:
            return old.answer
        if call.watches:
            return REFUSALS["500"] if self._spoils("500") else None
        refusals = [kind for kind in REFUSALS if kind != "409" or call.writes]
        fault = self._spoils(*refusals, "hang", *(["stale"] if old is not None else []))
        if fault == "hang":
            await asyncio.sleep(_HANG)
            raise Cut
        if fault == "stale" and old is not None:
            old.until = now + _STALE
            return old.answer
        return REFUSALS.get(fault)

    async def after(self, call: Call, answer: Answer) -> Answer:
        """Lose the answer, or half of it."""
        new = call.target not in self._memories
        if call.method == "GET" and answer.status == 200 and (new or self._random.random() < _KEPT):
            self._memories[call.target] = _Memory(answer=answer)
        fault = self._spoils("lost", "cut")
        if fault == "lost":
            raise Cut
        return replace(answer, whole=False) if fault == "cut" else answer

    async def event(self, call: Call, line: bytes) -> list[bytes]:
        """Drop or double an event, or end the watch one way or another."""
        del call
        fault = self._spoils("dropped", "doubled", "410", "watch cut")
        if fault == "watch cut":
            raise Cut
        if fault == "410":
            return [json.dumps(_GONE).encode() + b"\n"]
        return {"dropped": [], "doubled": [line, line]}.get(fault, [line])
