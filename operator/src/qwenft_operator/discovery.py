"""Asking the apiserver which gang APIs it serves, once and now and then again."""

from __future__ import annotations

import time
from collections.abc import Callable

from qwenft_operator.gangs import GangApi, candidates, chosen
from qwenft_operator.port import Cluster

__all__ = ["FRESH_SECONDS", "Discovery"]

FRESH_SECONDS = 300.0
"""For how long an answer counts: a scheduler that is installed meanwhile is noticed after it."""


class Discovery:
    """The gang API to use, by the settings and by what is served.

    Discovery is open to every account that has a token: it takes no right.
    """

    def __init__(
        self, cluster: Cluster, wish: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._wish = wish
        self._clock = clock
        self._until = float("-inf")
        self._found: GangApi | None = None

    async def gang(self) -> GangApi | None:
        """Return the API for attempts that start now, None for none."""
        allowed = candidates(self._wish)
        if allowed and self._clock() >= self._until:
            served = set()
            for version in dict.fromkeys(api.api_version for api in allowed):
                kinds = await self._cluster.served(version)
                served |= {f"{version}/{kind}" for kind in kinds}
            self._found = chosen(self._wish, served)
            self._until = self._clock() + FRESH_SECONDS
        return self._found

    def forget(self) -> None:
        """Ask anew the next time: the apiserver has refused something."""
        self._until = float("-inf")
