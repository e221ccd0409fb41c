"""The page about the operator's cost, written from the figures."""

# ruff: noqa: E501 - the text as it is printed

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bare import picture
from bare.plane import ROOT

__all__ = ["text", "write"]

PAGE = ROOT / "docs" / "performance_operator.md"
PICTURE = ROOT / "docs" / "performance_operator.svg"
_AT_ONCE = 21
"""Runs of the soak before KWOK: three of each of seven kinds."""
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

**Read the seconds with care.** All parts of the control plane share two cores with the operator and the bench.
`load` is the machine's load average at the end of a measurement; where it is far above two, other work ran
beside it and everything took longer. Writes, memory and CPU seconds do not depend on it much.
One scenario at a time: `make bench-operator SCENARIOS=wide`; all but
`thousand`, a quarter of an hour, take ten minutes at most.

## Many runs

| work | apply → all pods, p50 / p99 | pods/s | writes a run | CPU | memory | idle | load |
|---|---|---|---|---|---|---|---|
"""
_WIDE_LIMIT = 5.0
_NOTES = """
## What each transition writes

Held by `tests/decide/test_writes.py`: a start writes four objects, one status and one Event, whatever the
number of nodes; the status follows the pods, with two writes where they come up together and more where that
takes a minute; a restart costs at most the objects of a
start and seven status writes, suspending one deletion and at most three status writes; while nothing happens
nothing is written. Progress is written every three seconds at most.

## Known limits

- Planning reads all nodes, pods, Jobs and runs of the cluster. Runs that are planned within two seconds, or ten
  times what the read took, share one such read, into which each start is entered; what frees or loses capacity
  makes the next plan read anew. 50 runs that start together cost one read (`tests/shell/test_outlook.py`).
  They are planned one after the other; their objects are made side by side.
- Of pods the operator watches the metadata alone, and kopf is kept from copying objects for handlers that
  there are none of (`tests/shell/test_light_watch.py`); of many events that say the same of a run it gets the
  first and the newest of a fifth of a second (`tests/shell/test_watches.py`).
- Above 50 active runs the resync looks at about 50 of them a minute, in turns, so that idling stays cheap.
"""


def write(known: dict[str, Any]) -> None:
    """Write the page, and its picture where there is something to draw."""
    PAGE.write_text(text(known), encoding="utf-8")
    points = _points(known)
    if len(points) > 1:
        PICTURE.write_text(picture.growth(points), encoding="utf-8")


def text(known: dict[str, Any]) -> str:
    """Return the page."""
    rows = [_row(title, known[name]) for name, title in _ROWS if name in known]
    missing = [title for name, title in _ROWS if name not in known]
    not_run = f"\nNot measured so far: {'; '.join(missing)}.\n" if missing else ""
    parts = [_HEAD + "\n".join(rows) + "\n", not_run, _again(known)]
    if "restart_seconds" in known.get("thousand", {}):
        parts.append(_demanded(known["thousand"]))
    if {"hundred", "trainer"} <= known.keys():
        parts.append(_beside(known["hundred"], known["trainer"]))
    if "alone_own_seconds" in known.get("hundred", {}):
        parts.append(_limit(known["hundred"], known["hundred"]["seconds_to_all_pods"]))
    if len(_points(known)) > 1:
        parts.append(_growth(_points(known)))
    if "wide" in known:
        parts.append(_wide(known["wide"]))
    if "restarts" in known:
        parts.append(_restarts(known["restarts"]))
    if "reports" in known:
        parts.append(_reports(known["reports"]))
    if "soak" in known:
        parts.append(_soak(known["soak"], known.get("trained")))
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


def _again(known: dict[str, Any]) -> str:
    """Tell of restarts of the operator itself, where they were measured."""
    lines = [
        f"{title}: {'settled' if found['restart_settled'] else 'not settled'} {found['restart_seconds']} s after"
        f" its process began, {found['restart_writes']} writes, peak {found['restart_peak_mib']} MiB."
        for name, title in _ROWS
        if "restart_seconds" in (found := known.get(name, {}))
    ]
    told = (
        "\nThe operator killed and started anew, until it had looked at every run and rested:\n\n"
    )
    return told + "".join(f"- {line}\n" for line in lines) if lines else ""


def _demanded(found: dict[str, Any]) -> str:
    """Return what is required of a thousand runs, and whether it was met."""
    missing, settles = found["runs"] - found["runs_with_all_pods"], found["restart_seconds"]
    rows = (
        ("runs without all their pods in time", "0", missing, not missing),
        (
            "operator's memory, peak",
            "≤ 200 MiB",
            f"{found['peak_mib']} MiB",
            found["peak_mib"] <= 200,
        ),
        (
            "idle CPU",
            "< 2 % of a core",
            f"{found['idle_cpu_percent']:.1f} %",
            found["idle_cpu_percent"] < 2,
        ),
        ("writes while idle", "0", found["idle_writes"], not found["idle_writes"]),
        ("restart to settled", "< 60 s", f"{settles} s", found["restart_settled"] and settles < 60),
    )
    return f"\nRequired of {found['runs']:,} runs:\n\n" + _verdicts(rows)


def _verdicts(rows: Iterable[tuple[str, str, object, bool]]) -> str:
    lines = [
        f"| {what} | {limit} | {now} | {'met' if met else '**not met**'} |\n"
        for what, limit, now, met in rows
    ]
    return "| | required | now | |\n|---|---|---|---|\n" + "".join(lines)


def _beside(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    ratio = ours["pods_per_second"] / theirs["pods_per_second"]
    rows = (("qwenft", ours), ("Training Operator v1.8.1", theirs))
    lines = [
        f"| {title} | {found['runs_with_all_pods']} of {found['runs']} | {found['pods_per_second']}"
        f" | {found['p50_seconds']} / {found['p99_seconds']} s | {found['cpu_seconds']} s"
        f" | {found['peak_mib']} MiB | {_load(found)} |"
        for title, found in rows
    ]
    verdict = "met" if ratio >= 10 else "**not met**"
    return f"""
## Beside Kubeflow's Training Operator

100 runs of 4 pods, one operator after the other, each on a fresh control plane of the same settings, nodes and
bench (`tests/support/bare/kubeflow.py`). The Training Operator is built from its module and runs with its own
defaults (one worker, 20 requests a second); it makes a pod and a Service for each replica, qwenft one Indexed
Job, whose pods the Job controller makes. The apiserver does not ask the Training Operator's webhook.

| | complete | pods/s | apply → all pods, p50 / p99 | CPU | peak memory | load |
|---|---|---|---|---|---|---|
{chr(10).join(lines)}

{ratio:.1f} times the pods a second; required: 10 times, {verdict}.
"""


def _points(known: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was measured with runs of ten pods, the smallest first."""
    found = [*known.get("growth", {}).values(), known.get("quarter"), known.get("thousand")]
    rows = [each for each in found if isinstance(each, dict) and each.get("pods_each") == 10]
    return sorted(rows, key=lambda each: each["runs"])


def _growth(points: list[dict[str, Any]]) -> str:
    lines = "\n".join(
        f"| {each['runs']:,} | {each['seconds_to_all_pods']} s | {each['pods_per_second']} | {each['cpu_seconds']} s"
        f" | {1000 * each['cpu_seconds'] / each['runs']:.0f} ms | {each['peak_mib']} MiB |"
        for each in points
    )
    return f"""
## Growth

Runs of ten pods. A straight line through the origin is linear growth.

![Seconds until all pods exist, and CPU seconds of the operator, over the number of runs](performance_operator.svg)

| runs | until all pods exist | pods/s | CPU of the operator | a run | peak memory |
|---|---|---|---|---|---|
{lines}
"""


def _load(found: dict[str, Any]) -> str:
    return str(found.get("load", "not noted"))


def _wide(found: dict[str, Any]) -> str:
    return f"""
## One run of 1,000 nodes of 8 GPUs

Plan: {found["plan"]}. Job after {found["seconds_to_job"]} s, its 1,000 pods {found["pods_after_job_seconds"]} s
later; {found["ready"]} pods ready; status {found["status_bytes"]:,} bytes; writes {found["writes"]};
{found["resident_mib"]} MiB, peak {found["peak_mib"]}; CPU {found["cpu_seconds"]} s; idle
{found["idle_cpu_percent"]:.1f} % of a core and {found["idle_writes"]} writes; load {_load(found)}.
{_limit(found, found["pods_after_job_seconds"]) if "alone_own_seconds" in found else ""}
Required: all pods within 5 s of the plan, {"met" if found["pods_after_job_seconds"] <= _WIDE_LIMIT else "**not met**"}.
"""


def _limit(found: dict[str, Any], seconds: float) -> str:
    """Tell what the Job controller takes by itself, measured on the same plane."""
    own, least = found["alone_own_seconds"], found["alone_least_seconds"]
    return f"""
The same plane without operator and runs, afterwards: the same Jobs take {own} s until all their pods exist (the
operator's way took {seconds / own:.2f} times that), Jobs of as many pods that ask for next to nothing {least} s
({seconds / least:.2f} times). The Job controller makes all of these pods, so that this is its limit on this machine.
"""


def _soak(found: dict[str, Any], trained: dict[str, Any] | None) -> str:
    beside = _trained(trained) if trained else "\nNo real runs trained beside them.\n"
    return f"""
## Soak

`make soak MINUTES={found["minutes"]:g}` (`tests/support/bare/soak.py`): runs that succeed, are preempted, lose a container or a pod, are
suspended and resumed, are deleted while they run, or ask for what cannot be, {_AT_ONCE} at a time on 12 nodes of KWOK.
{_verdict(found)}
{beside}"""


def _trained(found: dict[str, Any]) -> str:
    return f"""
At the same time real runs on the embedded cluster, two at a time on its two nodes, before an operator of their
own: two gloo ranks train the sample's model for 40 steps, and meanwhile a rank is killed, a pod deleted, the run
suspended and resumed, or deleted. {_verdict(found)}
{found["ended"]} of them ended, each with the loss of the run that nothing happened to, {found["loss"]}, but for {found["apart"]:.1e} at most
(1e-5 allowed).
"""


def _verdict(found: dict[str, Any]) -> str:
    lives = ", ".join(f"{count} {kind}" for kind, count in found["lives"].items())
    return f"""\
Lives led: {lives}.
Wrong ends: {len(found["wrong"])}; objects left behind: {found["orphans"]}; operator's memory {found["memory_mib"]} MiB
in the median, between {found["lowest"]:.1%} and {found["highest"]:.1%} of it after the first sixth of the time, five
minutes at most; load {_load(found)}; {"passed" if found["passed"] else "**failed**"}."""


def _reports(found: dict[str, Any]) -> str:
    """Return the section; a lag ends when a watch tells of that step, or of a later one."""
    lag, cpu = found["lag_p99_seconds"], found["cpu_percent"]
    rows = (
        ("from a report to the status that shows it, p99", "< 10 s", f"{lag} s", lag < 10),
        ("operator's CPU", "< 50 % of a core", f"{cpu} % of a core", cpu < 50),
    )
    refused = f"; not taken: {found['refused']}" if found["refused"] else ""
    return f"""
## {found["runs"]} runs that report every {found["every_seconds"]:.0f} s

To the real HTTPS endpoint, each on a new connection with the token of its pod. {found["reports"]:,} reports in
{found["seconds"]:.0f} s{refused}; answered within {found["answered_p99_seconds"]} s (p99); shown after
{found["lag_p50_seconds"]} s (p50); {found["status_writes"]:,} status writes; {found["resident_mib"]} MiB, peak
{found["peak_mib"]}; load {_load(found)}.

{_verdicts(rows)}"""


def _restarts(found: dict[str, Any]) -> str:
    word = "all" if found["all_restarted"] else "not all"
    return f"""
## {found["runs"]} runs restarting at one time

{word.capitalize()} restarted within {found["seconds"]} s of the first preemption, {found["writes_per_restart"]} writes a restart;
CPU {found["cpu_seconds"]} s, {found["resident_mib"]} MiB, peak {found["peak_mib"]}; load {_load(found)}.
"""
