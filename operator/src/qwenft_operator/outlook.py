"""Reading the cluster for plans, once for all the runs that are planned in one short moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from qwenft_operator import names
from qwenft_operator.decision import Decision
from qwenft_operator.excerpts import ListedJob, ListedNode, ListedPod, ListedRun
from qwenft_operator.port import Cluster, Refused
from qwenft_operator.run import Run
from qwenft_operator.view import View

__all__ = ["SHARED_SECONDS", "Outlook", "read_view"]

SHARED_SECONDS = 2.0
"""Seconds for which a view is good, unless something was freed or lost in the meantime."""
_READS_SHARE = 10.0
"""A view is good for at least so many times what it took to read: large clusters take seconds."""

_OURS = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"
_NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"


async def read_view(cluster: Cluster, scope: str) -> View:
    """Read the cluster; ``scope`` is the watched namespace, or empty."""
    nodes, pods, jobs, runs, classes = await asyncio.gather(
        cluster.list("Node", shape=ListedNode),
        cluster.list("Pod", fields=_NOT_ENDED, shape=ListedPod),
        cluster.list("Job", scope, labels=_OURS, shape=ListedJob),
        cluster.list(names.KIND, scope, shape=ListedRun),
        _priority_classes(cluster),
    )
    return View.of(nodes=nodes, pods=pods, jobs=jobs, runs=runs, classes=classes)


async def _priority_classes(cluster: Cluster) -> tuple[Mapping[str, Any], ...]:
    """List them; where that is forbidden, creation alone makes the order."""
    try:
        return await cluster.list("PriorityClass")
    except Refused:
        return ()


class Outlook:
    """The newest view, for as long as it is good.

    Not for use by two at once: whoever plans holds a lock from :meth:`view` to :meth:`entered`.
    """

    def __init__(
        self,
        cluster: Cluster,
        scope: str = "",
        *,
        lasts: float = SHARED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``lasts``: seconds for which a view is shared, 0 for a read each time."""
        self._cluster = cluster
        self._scope = scope
        self._lasts = lasts
        self._clock = clock
        self._view: View | None = None
        self._until = 0.0
        self._forgotten = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._under_way: dict[str, tuple[Run, Decision]] = {}
        """Decisions that are being carried out, by the run's uid: a read may not show them yet."""

    async def view(self) -> View:
        """Return a view that is good now, read anew if need be."""
        if self._view is not None and self._clock() < self._until:
            return self._view
        self.forget()
        forgotten, began = self._forgotten, self._clock()
        under_way = tuple(self._under_way.values())
        view = await read_view(self._cluster, self._scope)
        for run, decision in under_way:
            view = view.after(run, decision)
        if self._lasts > 0 and forgotten == self._forgotten:
            self._keep(view, max(self._lasts, _READS_SHARE * (self._clock() - began)))
        return view

    @contextmanager
    def entered(self, view: View, run: Run, decision: Decision) -> Iterator[None]:
        """Enter a decision that was made on ``view`` and is carried out in the meantime.

        Views that are read until then show it too. If it fails some of it may have been done: the
        next plan reads anew.
        """
        if self._view is view:
            self._view = view.after(run, decision)
        self._under_way[run.owner.uid] = (run, decision)
        try:
            yield
        except BaseException:
            self.forget()
            raise
        finally:
            del self._under_way[run.owner.uid]

    def forget(self) -> None:
        """Drop the view: something has changed that it does not show."""
        self._view = None
        self._forgotten += 1
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _keep(self, view: View, seconds: float) -> None:
        """Keep the view for its time and no longer: it is as large as the cluster."""
        self._view, self._until = view, self._clock() + seconds
        self._expiry = asyncio.get_running_loop().call_later(seconds, self.forget)
