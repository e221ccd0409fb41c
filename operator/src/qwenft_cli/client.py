"""The Python client: what the command line does, as functions with typed values.

``from qwenft import Client``. A run is a file's path, the mapping of its YAML, or a
:class:`~qwenft_cli.document.Document`; a status is a :class:`~qwenft_cli.snapshot.Snapshot`.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qwenft_cli import document, guidance, watch
from qwenft_cli.access import Access, Address, Connect, Object
from qwenft_cli.connect import connect as connect_cluster
from qwenft_cli.document import Document
from qwenft_cli.failure import CliError
from qwenft_cli.logs import choose
from qwenft_cli.losses import LossCurve
from qwenft_cli.snapshot import Snapshot, of_run
from qwenft_plan.planner import Planned
from qwenft_plan.progress import Progress

__all__ = ["Client", "RunFailed", "RunLike"]

RunLike = str | Path | Mapping[str, Any] | Document
_PERIOD = 1.0


class RunFailed(CliError):  # noqa: N818 - the run's end, not a mistake of the client
    """The run that was waited for has failed; ``snapshot`` says why."""

    def __init__(self, snapshot: Snapshot) -> None:
        failure = snapshot.failure
        why = f"{failure.reason}: {failure.message}" if failure else snapshot.reason
        super().__init__(
            f"{snapshot.name} failed: {why}",
            next_step=f"See the rank that failed first: qwenft logs {snapshot.name} --failed",
        )
        self.snapshot = snapshot


class Client:
    """The runs of one namespace. Nothing is connected before the first call that needs a cluster.

    Every method raises :class:`~qwenft_cli.failure.CliError` when file or cluster say no.
    """

    def __init__(
        self,
        *,
        namespace: str = "",
        context: str = "",
        kubeconfig: str = "",
        connect: Connect = connect_cluster,
    ) -> None:
        """Choose the cluster and the namespace; empty ones follow the kubeconfig."""
        self._address = Address(kubeconfig=kubeconfig, context=context, namespace=namespace)
        self._connect = connect
        self._access: Access | None = None

    @classmethod
    def over(cls, access: Access) -> Client:
        """Return a client over a connection that there is already."""
        client = cls()
        client._access = access
        return client

    @property
    def access(self) -> Access:
        """The connection, made on first use."""
        if self._access is None:
            self._access = self._connect(self._address)
        return self._access

    def _connected(self, _address: Address) -> Access:
        return self.access

    @property
    def namespace(self) -> str:
        """The namespace that the methods look into."""
        return self.access.namespace

    def plan(
        self, run: RunLike, *, on: str = "", operator: str = "qwenft-system/qwenft"
    ) -> Planned:
        """Return the plan for nodes such as ``2x8xH100-80G``, else for the cluster's free ones.

        For the cluster, what the ``operator`` (namespace/name) has learnt is taken into account.
        Raises :class:`~qwenft_plan.errors.SpecError` or :class:`~qwenft_plan.errors.Infeasible`.
        """
        read = _read(run)
        words = Namespace(
            on=on, lessons=None, price=[], operator=operator, kubeconfig="", context="",
            namespace="",
        )  # fmt: skip
        advice = guidance.advice(words, read, self._connected)
        return guidance.planned(read, advice, words, self._connected)[0]

    def submit(self, run: RunLike, *, dry_run: bool = False) -> Snapshot:
        """Apply the run and return its status; ``dry_run`` only has the cluster check it."""
        return of_run(self.apply(run, dry_run=dry_run))

    def apply(self, run: RunLike, *, dry_run: bool = False) -> Object:
        """Do as :meth:`submit`; return the object as the cluster stored it, or would."""
        body = _read(run).body
        metadata = {**body["metadata"], "namespace": self.namespace}
        return self.access.apply({**body, "metadata": metadata}, dry_run=dry_run)

    def runs(self) -> tuple[Snapshot, ...]:
        """Return every run of the namespace."""
        return tuple(of_run(body) for body in self.access.runs())

    def status(self, name: str) -> Snapshot:
        """Return the run as it is now, with its pods and its last event."""
        return watch.look(self.access, name)

    def watch(
        self, name: str, *, period: float = _PERIOD, sleep: Callable[[float], None] = time.sleep
    ) -> Iterator[Snapshot]:
        """Yield the run now and at each change, looked for every ``period`` seconds, to its end."""
        last: Snapshot | None = None
        while last is None or not last.finished:
            if last is not None:
                sleep(period)
            snapshot = self.status(name)
            if snapshot != last:
                yield snapshot
            last = snapshot

    def wait(
        self,
        name: str,
        *,
        timeout: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> Snapshot:
        """Return the run once it has succeeded.

        Raises :class:`RunFailed` when it fails, :class:`TimeoutError` after ``timeout`` seconds.
        """
        end = None if timeout is None else clock() + timeout
        while True:
            snapshot = self.status(name)
            if snapshot.phase == "Failed":
                raise RunFailed(snapshot)
            if snapshot.finished:
                return snapshot
            if end is not None and clock() >= end:
                raise TimeoutError(f"{name} is still {snapshot.phase} after {timeout:.0f} s")
            sleep(_PERIOD)

    def logs(self, name: str, *, rank: int | None = 0, follow: bool = False) -> Iterator[str]:
        """Yield the lines of the pod that holds a rank; None is the rank that failed first."""
        pod = choose(self.access.run(name), self.access.pods(name), rank)
        return self.access.log(pod, follow=follow)

    def progress(self, name: str) -> tuple[Progress, ...]:
        """Return every report of the current attempt that its log still holds."""
        return watch.history(self.access, self.status(name))

    def curve(self, name: str) -> LossCurve:
        """Return the loss over the steps of :meth:`progress`; a notebook draws it."""
        return LossCurve.of(self.progress(name))

    def events(self, name: str) -> tuple[Object, ...]:
        """Return the Events about the run, oldest first."""
        return self.access.events(self.access.run(name))

    def suspend(self, name: str) -> Object:
        """Stop the run's pods and keep its place; return the object as the cluster stored it."""
        return self.access.suspend(name, suspended=True)

    def resume(self, name: str) -> Object:
        """Go on with a suspended run from its last checkpoint; return as :meth:`suspend`."""
        return self.access.suspend(name, suspended=False)


def _read(run: RunLike) -> Document:
    if isinstance(run, Document):
        return run
    if isinstance(run, Mapping):
        return document.of_body(run)
    return document.load(str(run))
