"""One look at one run: read, decide, execute.

Level-driven: nothing is remembered between two looks that the cluster could not tell again, so a
process that dies between any two writes is continued by the next one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

from qwenft_operator import logs, names
from qwenft_operator.clock import format_time
from qwenft_operator.decide import decide
from qwenft_operator.decision import Decision, Notice
from qwenft_operator.discovery import Discovery
from qwenft_operator.experience import finding_of
from qwenft_operator.history import History
from qwenft_operator.notebook import Notebook
from qwenft_operator.observe import observe
from qwenft_operator.outlook import SHARED_SECONDS, Outlook
from qwenft_operator.port import Cluster, Conflict, Refused
from qwenft_operator.recollect import recollected
from qwenft_operator.render.gang import handed_over
from qwenft_operator.reports import Reports
from qwenft_operator.run import Owner, Run, Settings
from qwenft_operator.situation import Situation
from qwenft_operator.status import Report
from qwenft_operator.surroundings import creation_trouble, list_children, lost_nodes, obstacles
from qwenft_operator.traces import SILENT, Traces
from qwenft_operator.view import Place
from qwenft_operator.vigil import Vigil

__all__ = ["Key", "Reconciler", "Witness"]

_REFUSED_POLL = 30.0
_LONGEST_MESSAGE = 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """Which run to look at; no more, so that no look can depend on what woke it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Witness(Protocol):
    """Told of what the reconciliation sees and writes."""

    def seen(self, body: Mapping[str, Any]) -> None:
        """Take note of a run that was read."""

    def written(self, body: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Take note of a status that was written over ``body``."""

    def gone(self, namespace: str, name: str) -> None:
        """Take note of a run that does not exist any more."""


class Reconciler:
    """Brings runs forward, one look at a time."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        settings: Settings | None = None,
        reports: Reports | None = None,
        notebook: Notebook | None = None,
        scope: str = "",
        clock: Callable[[], float] = time.time,
        witness: Witness | None = None,
        shared_for: float = SHARED_SECONDS,
    ) -> None:
        """``shared_for``: seconds for which plans share one read of the cluster."""
        self._cluster = cluster
        self._traces: Traces = SILENT
        self._witness = witness
        self._settings = settings or Settings()
        self._reports = reports or Reports()
        self._notebook = notebook or Notebook(cluster, namespace="", name="")
        self._outlook = Outlook(cluster, scope, lasts=shared_for)
        self._discovery = Discovery(cluster, self._settings.gang)
        self._clock = clock
        self._vigil = Vigil()
        self._planning = asyncio.Lock()
        self._waiting: dict[Key, Place] = {}
        self._gave_way: dict[Key, float] = {}
        """Runs that let others go first, and since when."""
        self._looked: dict[Key, float] = {}
        """Runs that run, and when the capacity was last looked at for their sake."""
        self._left: dict[Key, str] = {}
        """The version that the last status write of each run made."""

    def traced_by(self, traces: Traces) -> None:
        """Make a span of each look from now on, and one of each plan."""
        self._traces = traces

    def watched_by(self, vigil: Vigil) -> None:
        """Measure the patience with runs that stand still by another watch from now on."""
        self._vigil = vigil

    @property
    def waiting(self) -> tuple[Key, ...]:
        """Runs that wait for capacity, in their order: to be woken when nodes or pods change."""
        return tuple(sorted(self._waiting, key=self._waiting.__getitem__))

    def is_as_left(self, key: Key, version: str) -> bool:
        """Whether the run of that version is as its last look here has left it."""
        return bool(version) and self._left.get(key) == version

    def freed(self) -> None:
        """Plan on a new read from now on: capacity was freed, came or went."""
        self._outlook.forget()

    async def __call__(self, key: Key) -> float | None:
        """Look at the run; return the seconds to the next look, None if an event will tell."""
        span = self._traces.span("reconcile", k8s_namespace_name=key.namespace, qwenft_run=key.name)
        with logs.about(str(key)), span:
            return await self._look(key)

    async def _look(self, key: Key) -> float | None:
        body = await self._cluster.get(names.KIND, key.namespace, key.name)
        if body is None:
            self._wait_no_more(key)
            self._looked.pop(key, None)
            self._left.pop(key, None)
            self._vigil.forget(key)
            if self._witness is not None:
                self._witness.gone(key.namespace, key.name)
            return None
        if self._witness is not None:
            self._witness.seen(body)
        situation = await self._situation(body)
        situation = replace(
            situation,
            looked_ago=self._looked_ago(key, situation),
            still_for=self._vigil.still_for(key, situation),
        )
        if await self._learnt(body, situation):
            return 0.0
        decision = decide(situation)
        if decision.wants_capacity:
            return await self._plan_and_start(key, body, situation, goes_on=decision.goes_on)
        self._wait_no_more(key)
        return await self._execute(body, situation, decision)

    def _wait_no_more(self, key: Key) -> None:
        self._waiting.pop(key, None)
        self._gave_way.pop(key, None)

    def _wait(self, key: Key, place: Place, decision: Decision) -> None:
        self._waiting[key] = place
        if decision.gives_way:
            self._gave_way.setdefault(key, self._clock())
        else:
            self._gave_way.pop(key, None)

    async def _situation(self, body: Mapping[str, Any]) -> Situation:
        run = Run.from_object(body)
        owner = run.owner
        children = await list_children(
            self._cluster,
            owner.namespace,
            owner.name,
            attempt=History.from_status(run.status).live_attempt,
        )
        now = self._clock()
        observed = observe(
            owner,
            children,
            lost_nodes=await lost_nodes(self._cluster, children, now),
            trouble=await creation_trouble(self._cluster, owner.namespace, children, now),
            progress=self._reports.newest(owner.uid),
        )
        run = recollected(run, observed, self._clock())
        situation = Situation(
            run=run, observed=observed, now=self._clock(), settings=self._settings
        )
        logs.on_attempt(situation.attempt)
        if run.phase in names.TERMINAL:
            self._reports.forget(owner.uid)
        else:
            self._reports.fence(owner.uid, situation.attempt)
        return situation

    async def _learnt(self, body: Mapping[str, Any], situation: Situation) -> bool:
        """Learn from a run that has finished, once; True if the run is to be read again.

        The lessons know the run by its uid, so it does no harm to die before the status is written.
        """
        finding = finding_of(situation.run)
        if finding is None or situation.run.deleting:
            return False
        try:
            if not await self._notebook.record(finding):
                return False
        except Conflict:
            return True
        status = dict(situation.run.status) | {"lesson": finding.to_status()}
        await self._write_status(body, Decision(status=status))
        return True

    def _looked_ago(self, key: Key, situation: Situation) -> float:
        """Return for how long the run has not asked for more; a new process has just looked."""
        if situation.run.phase in names.TERMINAL:
            self._looked.pop(key, None)
            return 0.0
        return situation.now - self._looked.setdefault(key, situation.now)

    async def _plan_and_start(
        self, key: Key, body: Mapping[str, Any], situation: Situation, *, goes_on: bool
    ) -> float | None:
        """Plan under one lock, and enter the plan: two runs never plan on the same free nodes."""
        carrying_out = ExitStack()
        # All that can be asked before it is: what is asked under the lock holds the others up.
        in_the_way: tuple[str, ...] = ()
        gang = None
        if not goes_on:
            in_the_way = await obstacles(self._cluster, situation.run, situation.attempt + 1)
            gang = await self._discovery.gang()
        advice = await self._notebook.advice()
        async with self._planning:
            view = await self._outlook.view()
            situation = replace(
                situation,
                advice=advice,
                capacity=view.capacity_for(situation.run, advice.networks),
                view=view,
                gave_way_for=self._clock() - self._gave_way.get(key, self._clock()),
                obstacles=in_the_way,
                gang=gang,
                now=self._clock(),
            )
            # The search takes as long as the inventory is large: not in the event loop.
            with self._traces.span("plan and render"):
                decision = await asyncio.to_thread(decide, situation)
            self._looked[key] = self._clock()
            if decision.apply or goes_on:
                self._wait_no_more(key)
            else:
                self._wait(key, view.place_of(body), decision)
            carrying_out.enter_context(self._outlook.entered(view, situation.run, decision))
        with carrying_out:
            return await self._execute(body, situation, decision)

    async def _execute(
        self, body: Mapping[str, Any], situation: Situation, decision: Decision
    ) -> float | None:
        """Carry the decision out, in the order that makes it repeatable."""
        owner = situation.run.owner
        try:
            uid = ""
            for manifest in decision.apply:
                uid = await self._cluster.apply(manifest)
            for manifest in decision.hand_over:
                await self._cluster.apply(handed_over(manifest, decision.apply[-1], uid))
        except Refused as refusal:
            self._discovery.forget()
            return await self._tell_refusal(body, situation, refusal)
        try:
            if not await self._write_status(body, decision):
                return 0.0
            for deletion in decision.delete:
                await self._cluster.delete(
                    deletion.kind,
                    owner.namespace,
                    deletion.name,
                    uid=deletion.uid,
                    grace=deletion.grace,
                )
        except Conflict:
            return 0.0
        return decision.requeue_after

    async def _write_status(self, body: Mapping[str, Any], decision: Decision) -> bool:
        """Write the status once, and only then the events; False if the run has changed."""
        if decision.status is None:
            return True
        try:
            version = await self._cluster.replace_status({**body, "status": dict(decision.status)})
        except Conflict:
            return False
        self._left[Key(body["metadata"]["namespace"], body["metadata"]["name"])] = version
        if self._witness is not None:
            self._witness.written(body, decision.status)
        run = Run.from_object(body)
        for notice in decision.events:
            logger.info("%s/%s: %s", run.owner.namespace, run.owner.name, notice.message)
            await self._cluster.create_event(
                run.owner.namespace, _event(run.owner, notice, self._clock())
            )
        return True

    async def _tell_refusal(
        self, body: Mapping[str, Any], situation: Situation, refusal: Refused
    ) -> float:
        """Say what the apiserver refused and why: a quota, an admission policy, a missing right."""
        self._outlook.forget()
        phase = situation.history.phase
        report = Report(
            phase=names.RESTARTING if phase == names.RESTARTING else names.PENDING,
            reason="Refused",
            message=f"the apiserver refuses {refusal}",
        )
        notice = Notice(reason="Refused", message=report.message, warning=True)
        decision = situation.decision(report, events=(notice,))
        await self._write_status(body, decision)
        return _REFUSED_POLL


def _event(owner: Owner, notice: Notice, now: float) -> dict[str, Any]:
    """Return the Event; equal notices of one second have one name, so that a repeat is no news."""
    when = format_time(now)
    seed = f"{owner.uid}/{when}/{notice.reason}/{notice.message}"
    suffix = hashlib.sha256(seed.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{owner.name}.{suffix}", "namespace": owner.namespace},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": owner.name,
            "namespace": owner.namespace,
            "uid": owner.uid,
        },
        "reason": notice.reason,
        "message": notice.message[:_LONGEST_MESSAGE],
        "type": "Warning" if notice.warning else "Normal",
        "source": {"component": "qwenft-operator"},
        "reportingComponent": "qwenft.dev/operator",
        "reportingInstance": "qwenft-operator",
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }
