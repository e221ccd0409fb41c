"""Wiring: the one place where cluster, queue, reconciler and progress server meet."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from qwenft_operator import gangs, names
from qwenft_operator.accelerators import ANNOTATION_NETWORK
from qwenft_operator.cluster import ApiCluster
from qwenft_operator.excerpts import ListedRun
from qwenft_operator.metrics import Metrics, MetricsServer
from qwenft_operator.notebook import Notebook
from qwenft_operator.port import Cluster, Conflict, Refused, Unavailable
from qwenft_operator.progress_server import ProgressServer
from qwenft_operator.queue import WorkQueue
from qwenft_operator.reconcile import Key, Reconciler
from qwenft_operator.reports import Reports
from qwenft_operator.run import Settings
from qwenft_operator.traces import SILENT, TracedCluster, Traces
from qwenft_operator.traces import start as start_traces
from qwenft_operator.view import has_ended

__all__ = ["App", "Options", "tracked"]

_RESYNC = 60.0
_RESYNC_AT_ONCE = 50
"""About so many runs are looked at in one resync, in turns; a thousand take twenty minutes."""
_FREEING_SECONDS = 1.0
_TRACKED = "batch.kubernetes.io/job-tracking"
"""The finalizer of a Job's pod until its Job has counted its end."""
_WORKERS = 8
_SECONDS = {
    "patience_seconds": "QWENFT_PATIENCE",
    "growth_seconds": "QWENFT_GROWTH",
    "growth_age_seconds": "QWENFT_GROWTH_AGE",
    "step_patience": "QWENFT_STEP_PATIENCE",
    "first_step_patience": "QWENFT_FIRST_STEP_PATIENCE",
    "node_patience": "QWENFT_NODE_PATIENCE",
    "image_patience": "QWENFT_IMAGE_PATIENCE",
}
"""Fields of :class:`Settings` that are seconds, and their variables."""
_SILENCE = 240.0
"""Seconds without a single successful list after which the process is better restarted."""

Number = TypeVar("Number", int, float)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The process's environment, read once."""

    namespace: str = ""
    """Only this namespace is watched; empty: all of them."""
    workers: int = _WORKERS
    runs: Settings = field(default_factory=Settings)
    """What every run inherits, but for the progress endpoint."""
    progress_url: str = ""
    certificates: str = ""
    """Directory of ``tls.crt``, ``tls.key`` and ``ca.crt``; empty: no progress endpoint."""
    host: str = ""
    """Address to listen on; empty: all."""
    port: int = names.PROGRESS_PORT
    metrics_port: int | None = None
    """Port of ``/metrics``, 0 for any that is free; None: no metrics are served."""
    home: str = ""
    """The operator's own namespace, with its prices and lessons; empty: there are none."""
    name: str = "qwenft"
    """The operator's own name, which its ConfigMaps begin with."""
    learns: bool = True

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Options:
        """Read the variables that the Deployment sets; ``ValueError`` names one that is wrong."""
        return cls(
            namespace=environ.get("QWENFT_WATCH_NAMESPACE", ""),
            workers=_number(environ, "QWENFT_WORKERS", int) or _WORKERS,
            runs=_inherited(environ),
            progress_url=environ.get("QWENFT_PROGRESS_URL", ""),
            certificates=environ.get("QWENFT_CERTIFICATES", ""),
            host=environ.get("QWENFT_PROGRESS_HOST", ""),
            port=_number(environ, "QWENFT_PROGRESS_PORT", int) or names.PROGRESS_PORT,
            metrics_port=_number(environ, "QWENFT_METRICS_PORT", int),
            home=environ.get("QWENFT_OPERATOR_NAMESPACE", ""),
            name=environ.get("QWENFT_OPERATOR_NAME", "") or "qwenft",
            learns=environ.get("QWENFT_LEARN", "true") != "false",
        )

    @property
    def serving(self) -> bool:
        """Whether there is a progress endpoint: its URL is known and its certificate is there."""
        return bool(self.progress_url) and Path(self.certificates, "tls.crt").is_file()

    def settings(self) -> Settings:
        """Return what every run inherits."""
        if not self.serving:
            return self.runs
        authority = Path(self.certificates, "ca.crt").read_text("utf-8")
        return replace(self.runs, progress_url=self.progress_url, progress_ca=authority)


def _inherited(environ: Mapping[str, str]) -> Settings:
    """Read what every run inherits; what is not set is as :class:`Settings` has it."""
    given: dict[str, Any] = {
        "trainer_image": environ.get("QWENFT_TRAINER_IMAGE"),
        "image_pull_policy": environ.get("QWENFT_IMAGE_PULL_POLICY"),
        "gang": _gang(environ.get("QWENFT_GANG", "")),
        "scheduler": environ.get("QWENFT_SCHEDULER"),
    }
    given |= {name: _number(environ, variable, float) for name, variable in _SECONDS.items()}
    return Settings(**{name: value for name, value in given.items() if value not in (None, "")})


def _number(
    environ: Mapping[str, str], variable: str, kind: Callable[[str], Number]
) -> Number | None:
    """Read a variable; None if it is not set or empty."""
    text = environ.get(variable, "")
    try:
        return kind(text) if text else None
    except ValueError:
        raise ValueError(f"{variable}: {text!r} is no number") from None


def _gang(text: str) -> str:
    if text and text not in gangs.WISHES:
        raise ValueError(f"QWENFT_GANG: {text!r} is none of {', '.join(gangs.WISHES)}")
    return text or gangs.NONE


class App:
    """The running operator."""

    def __init__(self, cluster: ApiCluster, options: Options, traces: Traces = SILENT) -> None:
        self._cluster = cluster
        self._traces = traces
        seen: Cluster = cluster if traces is SILENT else TracedCluster(cluster, traces)
        self._options = options
        self._reports = Reports()
        self._metrics = Metrics(workers=options.workers)
        self._metrics_server = MetricsServer(self._metrics.registry)
        self._reconciler = Reconciler(
            seen,
            settings=options.settings(),
            reports=self._reports,
            notebook=Notebook(
                seen, namespace=options.home, name=options.name, learns=options.learns
            ),
            scope=options.namespace,
            witness=self._metrics,
        )
        self._reconciler.traced_by(traces)
        self._queue: WorkQueue[Key] = WorkQueue(
            self._reconciler, passing=(Unavailable, Conflict, Refused), watcher=self._metrics
        )
        self._server = ProgressServer(cluster, self._reports, self._queue.add)
        self._tasks: list[asyncio.Task[None]] = []
        self._freeing: asyncio.TimerHandle | None = None
        self._node_signs: dict[str, tuple[Any, ...]] = {}
        self._listed_at = time.monotonic()

    @classmethod
    async def start(cls, options: Options) -> App:
        """Connect, listen and begin to work."""
        cluster = await ApiCluster.connect()
        app = cls(cluster, options, start_traces(os.environ))
        cluster.tell(app._metrics.answered)
        await app._listen()
        app._tasks = [
            asyncio.create_task(app._queue.run(options.workers), name="queue"),
            asyncio.create_task(app._resync(), name="resync"),
        ]
        return app

    async def _listen(self) -> None:
        """Open the ports: progress of the pods of every node, metrics for whoever scrapes."""
        options = self._options
        host = options.host or "0.0.0.0"  # noqa: S104 - both are asked from other machines
        if options.serving:
            await self._server.start(host, options.port, Path(options.certificates))
        else:
            logger.warning("no certificate for the progress endpoint: runs will show no steps")
        if options.metrics_port is not None:
            port = await self._metrics_server.start(host, options.metrics_port)
            logger.info("serving metrics on port %d", port)

    async def stop(self) -> None:
        """Stop working; what is under way is cut off, as any crash may do."""
        if self._freeing is not None:
            self._freeing.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.stop()
        await self._metrics_server.stop()
        await self._cluster.close()
        await asyncio.to_thread(self._traces.stop)

    def wake(self, namespace: str | None, name: str | None) -> None:
        """Look at a run soon."""
        if namespace and name:
            self._queue.add(Key(namespace, name))

    def run_changed(self, body: Mapping[str, Any], *, gone: bool) -> None:
        """Wake the run, unless the event is the echo of this process's own write.

        What is to follow a write is asked for by the decision that made it. Half of all looks were
        at such echoes while runs report.
        """
        metadata = body["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        if gone or not self._reconciler.is_as_left(key, metadata.get("resourceVersion", "")):
            self._queue.add(key)

    def wake_waiting(self) -> None:
        """Look at all runs that wait for capacity, by what there is now."""
        self._reconciler.freed()
        for key in self._reconciler.waiting:
            self._queue.add(key)

    def job_changed(self, body: Mapping[str, Any], *, gone: bool) -> None:
        """Wake the Job's run, and those that wait if the Job may have freed something.

        A Job that was just made has not, nor has one whose pods come up. What a queue does to its
        Jobs is told by no other sign.
        """
        labels = body["metadata"].get("labels") or {}
        self.wake(body["metadata"].get("namespace"), labels.get(names.LABEL_RUN))
        if gone or has_ended(body) or names.LABEL_QUEUE in labels:
            self.wake_waiting()

    def pod_changed(self, body: Mapping[str, Any], *, gone: bool) -> None:
        """Wake the pod's run, and soon those that wait if the pod has ended.

        A Job that is deleted is gone before its pods are: only they tell when their node is free.
        They end by the hundred, so that those that wait are woken once for all of a second. Nothing
        is known here of a pod but its metadata.
        """
        labels = body["metadata"].get("labels") or {}
        self.wake(body["metadata"].get("namespace"), labels.get(names.LABEL_RUN))
        if (
            (gone or not tracked(body["metadata"]))
            and self._freeing is None
            and self._reconciler.waiting
        ):
            loop = asyncio.get_running_loop()
            self._freeing = loop.call_later(_FREEING_SECONDS, self._pods_ended)

    def _pods_ended(self) -> None:
        self._freeing = None
        self.wake_waiting()

    def node_changed(self, body: Mapping[str, Any], *, gone: bool) -> None:
        """Wake the waiting runs when a node's offer changes; most node events are heartbeats."""
        name = body["metadata"]["name"]
        sign = None if gone else _sign(body)
        if self._node_signs.get(name) == sign:
            return
        if sign is None:
            self._node_signs.pop(name, None)
        else:
            self._node_signs[name] = sign
        self.wake_waiting()

    def trouble(self) -> str:
        """Return why the process should be restarted, empty if it need not be."""
        ended = [task.get_name() for task in self._tasks if task.done()]
        if ended:
            return f"ended: {', '.join(ended)}"
        silent = time.monotonic() - self._listed_at
        return f"no list of runs for {silent:.0f} s" if silent > _SILENCE else ""

    async def _resync(self) -> None:
        """Add every run that is not over, whatever events were or were not delivered.

        A few at a time where there are many: looking at a run costs milliseconds, and a thousand
        looks a minute would be most of what the operator does.
        """
        for turn in itertools.count():
            try:
                bodies = await self._cluster.list(
                    names.KIND, self._options.namespace, shape=ListedRun
                )
                self._metrics.listed(bodies)
                for body in _due([body for body in bodies if _needs_resync(body)], turn):
                    self.wake(body["metadata"]["namespace"], body["metadata"]["name"])
                self._listed_at = time.monotonic()
                if self._server.refresh_certificate():
                    logger.info("serving a renewed certificate")
            except (Unavailable, Refused) as error:
                # An apiserver that has just started knows no rights yet and forbids everything.
                logger.warning("cannot list the runs: %s", error)
            await asyncio.sleep(_RESYNC)


def tracked(metadata: Mapping[str, Any]) -> bool:
    """Whether the Job of a pod has not counted its end yet."""
    return _TRACKED in (metadata.get("finalizers") or ())


def _due(bodies: list[Mapping[str, Any]], turn: int) -> list[Mapping[str, Any]]:
    """Return the runs whose turn it is: all of up to fifty, a share of more."""
    shares = -(-len(bodies) // _RESYNC_AT_ONCE) or 1
    return [
        body
        for body in bodies
        if zlib.crc32(body["metadata"]["uid"].encode()) % shares == turn % shares
    ]


def _needs_resync(body: Mapping[str, Any]) -> bool:
    status = body.get("status") or {}
    policy = (body.get("spec") or {}).get("runPolicy") or {}
    over = status.get("phase") in names.TERMINAL
    known = status.get("observedGeneration") == body["metadata"].get("generation")
    return not over or not known or "ttlSecondsAfterFinished" in policy


def _sign(body: Mapping[str, Any]) -> tuple[Any, ...]:
    """Everything of a node that a plan depends on."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    ready = [item for item in status.get("conditions") or () if item["type"] == "Ready"]
    labels = body["metadata"].get("labels") or {}
    annotations = body["metadata"].get("annotations") or {}
    taints = [
        (item.get("key"), item.get("value"), item.get("effect"))
        for item in spec.get("taints") or ()
    ]
    return (
        tuple(item.get("status") for item in ready),
        bool(spec.get("unschedulable")),
        tuple(sorted((status.get("allocatable") or {}).items())),
        tuple(sorted(labels.items())),
        annotations.get(ANNOTATION_NETWORK),
        tuple(sorted(map(str, taints))),
    )
