"""`python -m bare.bench [SCENARIO…]`: what the operator costs, on real control-plane programs.

Figures go to ``docs/performance_operator.json``, from which the page beside it is written. Each
scenario has a plane of its own and takes ten minutes at most on two idle cores, ``thousand``
twenty.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace

from bare import audit, kubeflow, limits, nodes, page, stored
from bare.api import Api
from bare.fleet import (
    TEAM,
    Figures,
    alone,
    bench,
    complete,
    figures,
    fleet,
    idle,
    phases,
    plane_with,
    speed,
    submit,
    until,
)  # fmt: skip
from bare.plane import ROOT
from bare.process import cost_of
from bare.reporters import Order, Seen, lags, percentile
from embedded.stages import direct_environment
from qwenft_operator import names
from simulated.builders import VOLUME, run_body

__all__ = ["SCENARIOS"]

FIGURES = ROOT / "docs" / "performance_operator.json"
PREEMPTED = json.dumps({"exitCode": 64, "reason": "Preempted"})


def hundred() -> Figures:
    """100 runs of 4 pods."""
    return fleet(100, 4, fake=100, seconds=120, rest=60, beside=True)


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
        took = complete(made, created, 4, seconds=240)
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
    return fleet(1000, 10, fake=1000, seconds=600, rest=60, again=True)


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
        until(lambda: stored.count(made, "jobs", TEAM) > 0, seconds=120, every=0.05)
        planned = time.monotonic() - began
        until(lambda: stored.count(made, "pods", TEAM) >= 1000, seconds=120, every=0.1)
        there = time.monotonic() - began
        until(lambda: "1000/1000" in json.dumps(api.runs(TEAM)), seconds=180, every=1)
        (run,) = api.runs(TEAM)
        return {
            "nodes": 1000, "gpus": 8000, "plan": run["status"].get("plan", {}).get("summary"),
            "seconds_to_job": round(planned, 2), "seconds_to_pods": round(there, 2),
            "pods_after_job_seconds": round(there - planned, 2),
            "ready": run["status"].get("workers", {}).get("ready"),
            "status_bytes": len(json.dumps(run["status"], ensure_ascii=False).encode()),
            **figures(operator, made, 1), **idle(operator, made, 30),
            **alone(operator, made, api, limits.least(1000)),
        }  # fmt: skip


def restarts() -> Figures:
    """200 runs whose first attempt is preempted at about one time."""
    stage = nodes.ending(1, 64, seconds=60, message=PREEMPTED)
    count = 200
    with bench(200, stage) as (made, api, operator):
        created = submit(api, count, 2)
        complete(made, created, 2, seconds=40)
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
        complete(made, submit(api, count, 1), 1, seconds=200)
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
