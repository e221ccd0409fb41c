"""The page about the operator's cost, written from the figures."""

# ruff: noqa: E501 - the text as it is printed

from __future__ import annotations

from typing import Any

from bare.plane import ROOT

__all__ = ["text", "write"]

PAGE = ROOT / "docs" / "performance_operator.md"
_ROWS = (
    ("hundred", "100 runs × 4 pods, 100 nodes"),
    ("quarter", "250 runs × 10 pods, 250 nodes"),
    ("thousand", "1,000 runs × 10 pods, 1,000 nodes"),
)
_HEAD = """\
# What the operator costs

Written by `make bench-operator` (`tests/support/bare/bench.py`); the figures are in
[performance_operator.json](performance_operator.json). The operator of the checkout runs with the rights of
the manifests before a real etcd, apiserver, controller-manager (`--kube-api-qps=500 --kube-api-burst=500
--concurrent-job-syncs=20`) and scheduler on loopback; KWOK v0.8.0 stands for the kubelets. Writes are those
in the apiserver's audit log.

**Read the seconds with care.** Where these figures were taken two cores were shared with other work, and all
parts of the control plane ran on them too. `load` is the machine's load average at the end of a measurement:
at a load of 40 on two cores everything takes about twenty times as long. Writes, memory and CPU seconds do
not depend on it much.

## Many runs

| work | apply → all pods, p50 / p99 | pods/s | writes a run | CPU | memory | idle | load |
|---|---|---|---|---|---|---|---|
"""
_NOTES = """
## What each transition writes

Held by `tests/decide/test_writes.py`: a start writes four objects, one status and one Event, whatever the
number of nodes; the status follows the pods, with two writes where they come up together and more where that
takes a minute (eleven for 1,000 pods above); a restart costs at most the objects of a
start and seven status writes, suspending one deletion and at most three status writes; while nothing happens
nothing is written. Progress is written every three seconds at most.

## Known limits

- Planning reads all nodes, pods, Jobs and runs of the cluster. Runs that are planned within two seconds share
  one such read, into which each start is entered; what frees or loses capacity makes the next plan read anew.
  50 runs that start together cost one read (`tests/shell/test_outlook.py`). They are still planned one after
  the other, and each plan counts all pods of the read.
- kopf keeps about 35 KB for each pod that it watches, so 10,000 pods need more than 200 MiB.
- Above 100 active runs the resync looks at about 100 of them a minute, in turns, so that idling stays cheap.
"""


def write(known: dict[str, Any]) -> None:
    """Write the page."""
    PAGE.write_text(text(known), encoding="utf-8")


def text(known: dict[str, Any]) -> str:
    """Return the page."""
    rows = [_row(title, known[name]) for name, title in _ROWS if name in known]
    missing = [title for name, title in _ROWS if name not in known]
    not_run = f"\nNot measured so far: {'; '.join(missing)}.\n" if missing else ""
    parts = [_HEAD + "\n".join(rows) + "\n", not_run]
    if "wide" in known:
        parts.append(_wide(known["wide"]))
    if "restarts" in known:
        parts.append(_restarts(known["restarts"]))
    if "reports" in known:
        parts.append(_reports(known["reports"]))
    return "".join(parts) + _NOTES


def _row(title: str, found: dict[str, Any]) -> str:
    latency = f"{found['p50_seconds']} / {found['p99_seconds']} s"
    if found["runs_with_all_pods"] < found["runs"]:
        latency += f" ({found['runs_with_all_pods']} of {found['runs']} within the time)"
    idle = f"{found['idle_cpu_percent']:.1f} % of a core, {found['idle_writes']} writes"
    memory = f"{found['resident_mib']} MiB, peak {found['peak_mib']}"
    cells = (title, latency, found["pods_per_second"], found["writes_per_run"],
             f"{found['cpu_seconds']} s", memory, idle, _load(found))  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _load(found: dict[str, Any]) -> str:
    return str(found.get("load", "not noted"))


def _wide(found: dict[str, Any]) -> str:
    return f"""
## One run of 1,000 nodes of 8 GPUs

Plan: {found["plan"]}. Job after {found["seconds_to_job"]} s, its 1,000 pods {found["pods_after_job_seconds"]} s
later; {found["ready"]} pods ready; status {found["status_bytes"]:,} bytes; writes {found["writes"]};
{found["resident_mib"]} MiB, peak {found["peak_mib"]}; CPU {found["cpu_seconds"]} s; idle
{found["idle_cpu_percent"]:.1f} % of a core and {found["idle_writes"]} writes; load {_load(found)}.
"""


def _reports(found: dict[str, Any]) -> str:
    """Return the section; a lag ends when a watch tells of that step, or of a later one."""
    lag, cpu = found["lag_p99_seconds"], found["cpu_percent"]
    rows = (
        ("from a report to the status that shows it, p99", "< 10 s", f"{lag} s", lag < 10),
        ("operator's CPU", "< 50 % of a core", f"{cpu} % of a core", cpu < 50),
    )
    table = "\n".join(
        f"| {what} | {limit} | {now} | {'met' if met else '**not met**'} |"
        for what, limit, now, met in rows
    )
    refused = f"; not taken: {found['refused']}" if found["refused"] else ""
    return f"""
## {found["runs"]} runs that report every {found["every_seconds"]:.0f} s

To the real HTTPS endpoint, each on a new connection with the token of its pod. {found["reports"]:,} reports in
{found["seconds"]:.0f} s{refused}; answered within {found["answered_p99_seconds"]} s (p99); shown after
{found["lag_p50_seconds"]} s (p50); {found["status_writes"]:,} status writes; {found["resident_mib"]} MiB, peak
{found["peak_mib"]}; load {_load(found)}.

| | required | now | |
|---|---|---|---|
{table}
"""


def _restarts(found: dict[str, Any]) -> str:
    word = "all" if found["all_restarted"] else "not all"
    return f"""
## {found["runs"]} runs restarting at one time

{word.capitalize()} restarted within {found["seconds"]} s, {found["writes_per_restart"]} writes a restart;
CPU {found["cpu_seconds"]} s, {found["resident_mib"]} MiB, peak {found["peak_mib"]}; load {_load(found)}.
"""
