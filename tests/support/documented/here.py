"""A stand-in for a cluster: what is submitted is trained on this machine, by the real trainer."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qwenft_cli import document, local
from qwenft_cli.access import Address, Object
from qwenft_cli.client import Client
from qwenft_cli.failure import CliError
from qwenft_cli.snapshot import Snapshot
from qwenft_operator import names
from simulated.builders import node_body

__all__ = ["ThisMachine"]


class ThisMachine:
    """``Access`` to two nodes of one core; one run at a time, whose volume is a directory."""

    def __init__(self, data: Path) -> None:
        self.namespace = "default"
        self._places = local.mounts((f"/data={data}",))
        self._body: dict[str, Any] = {}
        self._lines: list[str] = []
        self._thread: threading.Thread | None = None

    def connect(self, _address: Address) -> ThisMachine:
        """Be the connection of any address."""
        return self

    def apply(self, body: Object, *, dry_run: bool = False) -> Object:
        """Store the run and begin to train it."""
        self._body = {**body, "metadata": {**body["metadata"], "uid": "u"}, "status": {}}
        if not dry_run:
            self._thread = threading.Thread(target=self._train)
            self._thread.start()
        return self.run("")

    def close(self) -> None:
        """Wait for what still trains."""
        if self._thread is not None:
            self._thread.join()

    def run(self, name: str) -> Object:
        """Return the run as it is now."""
        del name
        return {**self._body, "status": dict(self._body["status"])}

    def runs(self) -> tuple[Object, ...]:
        """Return the one run."""
        return (self.run(""),)

    def suspend(self, name: str, *, suspended: bool) -> Object:
        """Refuse: what trains here is ended by nobody."""
        raise CliError(f"{name} cannot be suspended here ({suspended})")

    def pods(self, name: str) -> tuple[Object, ...]:
        """Return a pod that stands for the processes."""
        labels = {names.LABEL_RUN: name, names.LABEL_ATTEMPT: "1"}
        pod = {"metadata": {"name": f"{name}-1-0", "labels": labels}, "spec": {}, "status": {}}
        return (pod,)

    def events(self, body: Object) -> tuple[Object, ...]:
        """Return none."""
        del body
        return ()

    def log(self, pod: str, *, follow: bool = False) -> Iterator[str]:
        """Yield what was reported so far."""
        del pod, follow
        return iter(tuple(self._lines))

    def nodes(self) -> tuple[Object, ...]:
        """Return two nodes of one core."""
        size = {"cpu": "1", "memory": "4Gi", "pods": "9"}
        return tuple(node_body(f"node-{index}", allocatable=size) for index in range(2))

    def node_pods(self) -> tuple[Object, ...]:
        """Return none: the nodes are free."""
        return ()

    def config_map(self, namespace: str, name: str) -> Object | None:
        """Return none: nothing was learnt."""
        del namespace, name

    def _train(self) -> None:
        read = document.of_body(self._body)
        chosen = Client.over(self).plan(read)
        predicted = asdict(chosen.predicted)
        self._tell(
            phase="Starting", attempt=1,
            plan={"summary": chosen.summary, "reason": chosen.reason, "predicted": {
                "memoryGiB": predicted["memory_gib"],
                "tokensPerSecond": predicted["tokens_per_second"]}},
        )  # fmt: skip
        first = Snapshot(name=read.name, phase="Starting")
        with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
            run = local.run_file(read, self._places)
            environ = local.environment(chosen.plan, run, Path(folder), os.environ)
            local.follow(local.command(chosen.plan, ()), environ, first, self._show, print)

    def _show(self, now: Snapshot) -> None:
        if now.progress is not None:
            line = json.dumps(now.progress.to_mapping())
            if line not in self._lines[-1:]:
                self._lines.append(line)
            self._tell(progress=now.progress.to_mapping(), measured=dict(now.measured))
        if now.finished:
            self._tell(result=dict(now.result))
        self._tell(phase=now.phase)

    def _tell(self, **fields: Any) -> None:
        status: Mapping[str, Any] = self._body["status"]
        self._body["status"] = {**status, **fields}
