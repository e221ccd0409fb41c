"""`python -m bare.bench [SCENARIO…]`: what the operator costs, on real control-plane programs.

Figures go to ``docs/performance_operator.json``, from which the page beside it is written. Each
scenario has a plane of its own and takes ten minutes at most on two idle cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bare import audit, kubeflow, nodes, page
from bare.api import Api
from bare.plane import ROOT, Plane, plane
from bare.process import Operator, cost_of
from bare.reporters import Order, Seen, lags, percentile
from embedded import binaries, layout, versions
from embedded.stages import direct_environment
from qwenft_operator import names
from serving import make_certificates
from simulated.builders import VOLUME, run_body

__all__ = ["SCENARIOS"]

TEAM = "team"
FIGURES = ROOT / "docs" / "performance_operator.json"
PREEMPTED = json.dumps({"exitCode": 64, "reason": "Preempted"})
Figures = dict[str, Any]
Stages = tuple[dict[str, Any], ...]


@contextmanager
def plane_with(count: int, *stages: dict[str, Any], gpus: int = 0) -> Iterator[Plane]:
    """Bring up a plane with fake nodes."""
    place = layout.from_environment()
    for product in binaries.on_demand(versions.load()):
        binaries.build(place, product)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, plane(Path(name), place) as made:
        made.namespace(TEAM)
        nodes.make_nodes(made, count, gpus=gpus)
        nodes.start_kwok(made, *stages)
        yield made


@contextmanager
def bench(
    count: int, *stages: dict[str, Any], gpus: int = 0, serving: bool = False
) -> Iterator[tuple[Plane, Api, Operator]]:
    """Bring up a plane with fake nodes, and the operator before it."""
    with plane_with(count, *stages, gpus=gpus) as made:
        operator = Operator.of(made, **(_endpoint(made) if serving else {}))
        try:
            operator.start()
            yield made, Api(made), operator
        finally:
            operator.stop()


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


def complete(
    api: Api, created: dict[str, float], pods: int, *, seconds: float, label: str = names.LABEL_RUN
) -> list[float]:
    """Return the seconds from each run's creation until its pods were seen to exist."""
    took: dict[str, float] = {}

    def look() -> bool:
        found = Counter(labels.get(label) for labels in api.labels(TEAM))
        now = time.monotonic()
        for name, when in created.items():
            if name not in took and found[name] >= pods:
                took[name] = now - when
        return len(took) == len(created)

    # A list of all pods costs the apiserver as much as some of them: ask as often as that allows.
    until(look, seconds=seconds, every=max(0.25, len(created) * pods / 4000))
    return sorted(took.values())


def phases(api: Api) -> Counter[str]:
    """Count the runs by phase."""
    return Counter((body.get("status") or {}).get("phase", "") for body in api.runs(TEAM))


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
    count: int, pods: int, *, fake: int, seconds: float, rest: float, again: bool = False
) -> Figures:
    """Submit ``count`` runs of ``pods`` pods to ``fake`` nodes; what it took until all ran.

    ``again``: then restart the operator, and see how long it takes until it has looked at them all.
    """
    with bench(fake) as (made, api, operator):
        began = time.monotonic()
        created = submit(api, count, pods)
        submitted = time.monotonic() - began
        took = complete(api, created, pods, seconds=seconds)
        found = speed(count, pods, took, time.monotonic() - began)
        settled = until(lambda: phases(api)["Starting"] == count, seconds=60, every=2)
        time.sleep(10)
        return {
            **found, "nodes": fake, "submit_seconds": round(submitted, 1), "all_settled": settled,
            **figures(operator, made, count), **(idle(operator, made, rest) if rest else {}),
            **(restarted(operator, made, count) if again else {}),
        }  # fmt: skip


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


def hundred() -> Figures:
    """100 runs of 4 pods."""
    return fleet(100, 4, fake=100, seconds=120, rest=60)


def trainer() -> Figures:
    """100 PyTorchJobs of 4 pods, by Kubeflow's Training Operator."""
    with plane_with(100) as made:
        process = kubeflow.start_training_operator(made)
        api, created = Api(made), {}
        began = time.monotonic()
        for index in range(100):
            name = f"run-{index:04d}"
            api.call("POST", kubeflow.JOBS.format(TEAM), kubeflow.job(name, TEAM, 4))
            created[name] = time.monotonic()
        took = complete(api, created, 4, seconds=240, label=kubeflow.LABEL)
        found = speed(100, 4, took, time.monotonic() - began)
        cost = cost_of(process.pid)
        return found | {
            "cpu_seconds": round(cost.cpu_seconds, 1), "peak_mib": round(cost.peak_mib),
        }  # fmt: skip


def growth() -> Figures:
    """10, 50 and 100 runs of 10 pods, each on a plane of its own, to see how it grows."""
    return {str(count): fleet(count, 10, fake=100, seconds=120, rest=0) for count in (10, 50, 100)}


def quarter() -> Figures:
    """250 runs of 10 pods on 250 nodes, to see how it grows."""
    return fleet(250, 10, fake=250, seconds=200, rest=60, again=True)


def thousand() -> Figures:
    """1,000 runs of 10 pods on 1,000 nodes."""
    return fleet(1000, 10, fake=1000, seconds=330, rest=60, again=True)


def wide() -> Figures:
    """One run of 1,000 nodes of 8 GPUs."""
    with bench(1000, gpus=8) as (made, api, operator):
        body = run_body("wide")
        body["spec"] |= {
            "model": {"name": "Qwen/Qwen1.5-72B"},
            "dataset": {"path": "/data/d.pt", "volume": VOLUME},
            "training": {"batchSize": 8000, "sequenceLength": 2048},
            "resources": {"nodes": {"min": 1000, "max": 1000}, "gpusPerNode": 8},
        }
        began = time.monotonic()
        api.create_run(body)
        until(lambda: bool(api.labels(TEAM, "apis/batch/v1", "jobs")), seconds=120, every=0.1)
        planned = time.monotonic() - began
        until(lambda: len(api.labels(TEAM)) >= 1000, seconds=120, every=0.25)
        there = time.monotonic() - began
        until(lambda: "1000/1000" in json.dumps(api.runs(TEAM)), seconds=180)
        (run,) = api.runs(TEAM)
        return {
            "nodes": 1000, "gpus": 8000, "plan": run["status"].get("plan", {}).get("summary"),
            "seconds_to_job": round(planned, 2), "seconds_to_pods": round(there, 2),
            "pods_after_job_seconds": round(there - planned, 2),
            "ready": run["status"].get("workers", {}).get("ready"),
            "status_bytes": len(json.dumps(run["status"], ensure_ascii=False).encode()),
            **figures(operator, made, 1), **idle(operator, made, 30),
        }  # fmt: skip


def restarts() -> Figures:
    """200 runs whose first attempt is preempted at about one time."""
    stage = nodes.ending(1, 64, seconds=60, message=PREEMPTED)
    count = 200
    with bench(200, stage) as (made, api, operator):
        created = submit(api, count, 2)
        complete(api, created, 2, seconds=40)
        before = audit.writes(audit.read(made.audit)).total()

        def second() -> list[bool]:
            """Return for each run whether it has been restarted and runs again."""
            found = [body.get("status") or {} for body in api.runs(TEAM)]
            return [each.get("restarts", 0) >= 1 and each["phase"] == "Starting" for each in found]

        until(lambda: "Restarting" in phases(api) or any(second()), seconds=120)
        began = time.monotonic()
        done = until(lambda: all(second()), seconds=240)
        took = time.monotonic() - began
        time.sleep(10)
        after = audit.writes(audit.read(made.audit)).total()
        return {
            "runs": count, "all_restarted": done, "seconds": round(took, 1),
            "writes_per_restart": round((after - before) / count, 2),
            **figures(operator, made, count),
        }  # fmt: skip


def reports() -> Figures:
    """200 runs that train, each reporting every 5 s to the HTTPS endpoint."""
    count, every, seconds = 200, 5.0, 120.0
    with bench(count, serving=True) as (made, api, operator):
        complete(api, submit(api, count, 1), 1, seconds=200)
        until(lambda: phases(api)["Starting"] == count, seconds=60)
        order = Order(
            progress=operator.environment["QWENFT_PROGRESS_URL"], apiserver=made.url,
            certificates=str(made.folder / "certificates"), namespace=TEAM, seconds=seconds,
            authority=str(made.folder / "progress" / "ca.crt"), every=every,
            tokens=api.pod_tokens(TEAM, names.AUDIENCE),
        )  # fmt: skip
        # All of them report once before anything is counted: a run's first step is written at once.
        report(replace(order, seconds=2 * every))
        before, cost = audit.writes(audit.read(made.audit)), operator.cost()
        began = time.monotonic()
        seen = report(order)
        took, after = time.monotonic() - began, operator.cost()
        wrote = audit.writes(audit.read(made.audit)) - before
        late = lags(seen)
        return {
            "runs": count, "every_seconds": every, "seconds": round(took, 1),
            "reports": len(seen.sent), "refused": seen.refused,
            "answered_p99_seconds": round(percentile(seen.answered, 0.99), 3),
            "lag_p50_seconds": round(percentile(late, 0.5), 2),
            "lag_p99_seconds": round(percentile(late, 0.99), 2),
            "status_writes": wrote["qwenfinetunes/status"],
            "cpu_percent": round(100 * (after.cpu_seconds - cost.cpu_seconds) / took, 1),
            "resident_mib": round(after.resident_mib), "peak_mib": round(after.peak_mib),
        }  # fmt: skip


def report(order: Order) -> Seen:
    """Let a process of its own report; return what it saw."""
    command = [sys.executable, "-m", "bare.reporters"]
    environment = direct_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    text = json.dumps(asdict(order))
    done = subprocess.run(
        command, input=text, env=environment, capture_output=True, text=True, check=True
    )
    return Seen(**json.loads(done.stdout))


SCENARIOS: dict[str, Callable[[], Figures]] = {
    each.__name__: each
    for each in (hundred, trainer, wide, restarts, reports, growth, quarter, thousand)
}


def main() -> int:
    """Run the named scenarios, or all, and write their figures and the page."""
    chosen = sys.argv[1:] or list(SCENARIOS)
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for name in chosen:
        print(f"{name}: {SCENARIOS[name].__doc__}", flush=True)
        known[name] = SCENARIOS[name]() | {"load": round(os.getloadavg()[1])}
        print(json.dumps(known[name], indent=1, ensure_ascii=False), flush=True)
        FIGURES.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        page.write(known)
    return 0


if __name__ == "__main__":
    sys.exit(main())
