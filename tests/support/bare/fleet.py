"""Many runs on a plane of their own: bringing it up, submitting, waiting, and what it took."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bare import audit, limits, nodes, stored
from bare.api import Api
from bare.plane import Plane, plane
from bare.process import Operator
from embedded import binaries, layout, versions
from qwenft_operator import names
from serving import make_certificates
from simulated.builders import run_body

__all__ = [
    "TEAM", "Figures", "alone", "bench", "complete", "figures", "fleet", "idle", "phases",
    "plane_with", "small", "speed", "submit", "until",
]  # fmt: skip

TEAM = "team"
Figures = dict[str, Any]


@contextmanager
def plane_with(
    count: int, *stages: dict[str, Any], gpus: int = 0, saves: bool = False
) -> Iterator[Plane]:
    """Bring up a plane with fake nodes; for ``saves`` see :func:`bare.nodes.start_kwok`."""
    place = layout.from_environment()
    for product in binaries.on_demand(versions.load()):
        binaries.build(place, product)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, plane(Path(name), place) as made:
        made.namespace(TEAM)
        nodes.make_nodes(made, count, gpus=gpus)
        nodes.start_kwok(made, *stages, saves=saves)
        yield made


@contextmanager
def bench(
    count: int, *stages: dict[str, Any], gpus: int = 0, serving: bool = False, saves: bool = False
) -> Iterator[tuple[Plane, Api, Operator]]:
    """Bring up a plane with fake nodes, and the operator before it."""
    with (
        plane_with(count, *stages, gpus=gpus, saves=saves) as made,
        Operator.running(made, **(_endpoint(made) if serving else {})) as operator,
    ):
        yield made, Api(made), operator


def _endpoint(made: Plane) -> dict[str, str]:
    """Return the variables with which the operator takes progress reports, with a certificate."""
    folder = made.folder / "progress"
    folder.mkdir()
    make_certificates(folder)
    port = str(made.ports["progress"])
    return {
        "QWENFT_PROGRESS_URL": f"https://127.0.0.1:{port}", "QWENFT_CERTIFICATES": str(folder),
        "QWENFT_PROGRESS_HOST": "127.0.0.1", "QWENFT_PROGRESS_PORT": port,
    }  # fmt: skip


def small(name: str, pods: int) -> dict[str, Any]:
    """Return a run of so many CPU pods."""
    return run_body(
        name,
        training={"batchSize": pods * 4},
        resources={"nodes": {"min": pods, "max": pods}, "processesPerNode": 1},
    )


def until(condition: Callable[[], bool], *, seconds: float, every: float = 0.5) -> bool:
    """Wait for a condition; False if it did not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def submit(api: Api, count: int, pods: int) -> dict[str, float]:
    """Create runs one after the other; return when each was there."""
    created = {}
    for index in range(count):
        name = f"run-{index:04d}"
        api.create_run(small(name, pods))
        created[name] = time.monotonic()
    return created


def complete(made: Plane, created: dict[str, float], pods: int, *, seconds: float) -> list[float]:
    """Return the seconds from each run's creation until its pods were seen to exist."""
    took: dict[str, float] = {}

    def look() -> bool:
        found = stored.pods_by_run(made, TEAM)
        now = time.monotonic()
        for name, when in created.items():
            if name not in took and found[name] >= pods:
                took[name] = now - when
        return len(took) == len(created)

    until(look, seconds=seconds, every=0.1)
    return sorted(took.values())


def phases(api: Api) -> Counter[str]:
    """Count the runs by phase."""
    return Counter((body.get("status") or {}).get("phase", "") for body in api.runs(TEAM))


def ready(api: Api, pods: int) -> int:
    """Count the runs whose status shows all their pods ready: until then there is more to tell."""
    shown = ((body.get("status") or {}).get("workers", {}) for body in api.runs(TEAM))
    return sum(each.get("ready") == f"{pods}/{pods}" for each in shown)


def idle(operator: Operator, made: Plane, seconds: float) -> Figures:
    """Return what an operator costs to which nothing happens."""
    before, wrote = operator.cost(), audit.writes(audit.read(made.audit)).total()
    time.sleep(seconds)
    after = operator.cost()
    return {
        "idle_seconds": seconds,
        "idle_cpu_percent": 100 * (after.cpu_seconds - before.cpu_seconds) / seconds,
        "idle_writes": audit.writes(audit.read(made.audit)).total() - wrote,
    }


def figures(operator: Operator, made: Plane, runs: int) -> Figures:
    """Return what the operator has taken so far."""
    cost, written = operator.cost(), audit.writes(audit.read(made.audit))
    return {
        "cpu_seconds": round(cost.cpu_seconds, 1),
        "resident_mib": round(cost.resident_mib),
        "peak_mib": round(cost.peak_mib),
        "writes": dict(written),
        "writes_per_run": round(written.total() / runs, 2),
    }


def fleet(
    count: int, pods: int, *, fake: int, seconds: float, rest: float, again: bool = False,
    beside: bool = False,
) -> Figures:  # fmt: skip
    """Submit ``count`` runs of ``pods`` pods to ``fake`` nodes; what it took until all ran.

    ``again``: then restart the operator, and see how long it takes until it has looked at them all.
    ``beside``: at last see how fast the Job controller makes as many Jobs by itself.
    """
    with bench(fake) as (made, api, operator):
        began = time.monotonic()
        created = submit(api, count, pods)
        submitted = time.monotonic() - began
        took = complete(made, created, pods, seconds=seconds)
        found = speed(count, pods, took, time.monotonic() - began)
        settled = until(
            lambda: ready(api, pods) == count and _rests(operator, count),
            seconds=300, every=2,
        )  # fmt: skip
        time.sleep(10)
        return {
            **found, "nodes": fake, "submit_seconds": round(submitted, 1), "all_settled": settled,
            **figures(operator, made, count), **(idle(operator, made, rest) if rest else {}),
            **(restarted(operator, made, count) if again else {}),
            **(alone(operator, made, api, limits.least(pods)) if beside else {}),
        }  # fmt: skip


def alone(operator: Operator, made: Plane, api: Api, least: Figures) -> Figures:
    """Remove operator and runs; return how long their Jobs, and the ``least``, take without it."""
    own = limits.jobs_of(api, TEAM)
    operator.stop()
    made.kubectl("delete", names.PLURAL, "--all", "-n", TEAM)
    until(lambda: not stored.count(made, "pods", TEAM), seconds=240)
    made.namespace(limits.NAMESPACE)
    return {
        "alone_own_seconds": round(limits.seconds_alone(made, api, own), 2),
        "alone_least_seconds": round(limits.seconds_alone(made, api, [least] * len(own)), 2),
    }


def speed(count: int, pods: int, took: list[float], seconds: float) -> Figures:
    """Return how fast runs came to have all their pods; ``took`` is each run's time, sorted."""
    return {
        "runs": count, "pods_each": pods, "runs_with_all_pods": len(took),
        "seconds_to_all_pods": round(seconds, 1),
        "pods_per_second": round(len(took) * pods / seconds, 1),
        "p50_seconds": round(statistics.median(took), 2) if took else None,
        "p99_seconds": round(took[int(0.99 * (len(took) - 1))], 2) if took else None,
    }  # fmt: skip


def restarted(operator: Operator, made: Plane, count: int) -> Figures:
    """Kill the operator and start it anew; how long until it has looked at all and rests."""
    wrote = audit.writes(audit.read(made.audit)).total()
    operator.stop(grace=0)
    began = time.monotonic()
    operator.start()
    done = until(lambda: _rests(operator, count), seconds=120)
    took = time.monotonic() - began
    return {
        "restart_settled": done, "restart_seconds": round(took, 1),
        "restart_cpu_seconds": round(operator.cost().cpu_seconds, 1),
        "restart_peak_mib": round(operator.cost().peak_mib),
        "restart_writes": audit.writes(audit.read(made.audit)).total() - wrote,
    }  # fmt: skip


def _rests(operator: Operator, count: int) -> bool:
    """Whether each of ``count`` runs was looked at, and nothing waits or is under way."""
    try:
        counted = operator.counted()
    except OSError:
        return False
    looks = counted.get("controller_runtime_reconcile_total", 0)
    busy = counted["workqueue_depth"] + counted["controller_runtime_active_workers"]
    return looks >= count and not busy
