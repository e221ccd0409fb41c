"""The operator as a process before the plane, and what it costs."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bare.plane import ROOT, Plane
from embedded import processes
from embedded.stages import StageError, direct_environment, wait_until

__all__ = ["Cost", "Operator", "cost_of"]

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a process has taken so far."""

    cpu_seconds: float
    resident_mib: float
    peak_mib: float


@dataclass(kw_only=True)
class Operator:
    """The operator of this checkout, with the rights of its manifests."""

    plane: Plane
    environment: dict[str, str]
    process: processes.Process | None = None

    @classmethod
    def of(cls, plane: Plane, **variables: str) -> Operator:
        """Return an operator that is not started yet."""
        environment = direct_environment() | {
            "KUBECONFIG": str(plane.kubeconfig("operator")),
            "PYTHONPATH": str(ROOT / "operator" / "src"),
            "QWENFT_PROGRESS_HOST": "127.0.0.1",
            "QWENFT_METRICS_PORT": str(plane.ports["metrics"]),
            "QWENFT_PROBE_URL": f"http://127.0.0.1:{plane.ports['probe']}/healthz",
            **variables,
        }
        return cls(plane=plane, environment=environment)

    @classmethod
    @contextmanager
    def running(cls, plane: Plane, **variables: str) -> Iterator[Operator]:
        """Start an operator; it is stopped in the end, whatever happens."""
        operator = cls.of(plane, **variables)
        try:
            operator.start()
            yield operator
        finally:
            operator.stop()

    @property
    def log(self) -> Path:
        """Everything that it said."""
        return self.plane.folder / "operator.log"

    def start(self) -> None:
        """Start it and wait until its probe answers; ``StageError`` if it ends before."""
        command = [sys.executable, "-m", "qwenft_operator"]
        self.process = processes.start(
            "operator", command, log=self.log, environment=self.environment
        )
        self.plane.guard.over(self.process)
        wait_until(self._has_come, seconds=180, what="the operator's probe", log=self.log)

    def _has_come(self) -> bool:
        assert self.process is not None
        if not processes.alive(self.process):
            raise StageError("the operator ended before it was well", log=self.log)
        return self.is_well()

    def is_well(self) -> bool:
        """Return whether the liveness probe says so."""
        try:
            with urllib.request.urlopen(self.environment["QWENFT_PROBE_URL"], timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    def stop(self, *, grace: float = 10.0) -> None:
        """End it; zero grace is a crash."""
        if self.process is not None:
            processes.stop(self.process, grace=grace)
            self.process = None

    def cost(self) -> Cost:
        """Return what it has taken since its start."""
        assert self.process is not None
        return cost_of(self.process.pid)

    def counted(self) -> dict[str, float]:
        """Return its metrics without their labels: samples of one name are added up."""
        url = f"http://127.0.0.1:{self.environment['QWENFT_METRICS_PORT']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found: dict[str, float] = {}
        for line in lines:
            if line and not line.startswith("#"):
                name, value = line.split("{")[0].split(" ")[0], float(line.rsplit(" ", 1)[1])
                found[name] = found.get(name, 0.0) + value
        return found


def cost_of(pid: int) -> Cost:
    """Read from /proc what a process has taken."""
    folder = Path(f"/proc/{pid}")
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    lines = (folder / "status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    return Cost(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        resident_mib=int(status["VmRSS"].split()[0]) / 1024,
        peak_mib=int(status["VmHWM"].split()[0]) / 1024,
    )
