"""What is done to a run, and the seconds until it has recovered from it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack

from demo import install, platforms, training
from embedded.configuration import KUBERNETES_DEFAULT, NodeLoss
from embedded.stages import StageError
from endtoend.bench import Bench
from endtoend.nodes import Nodes
from endtoend.recovering import KILL_RANKS, node_without_operator, pod_of, recovering
from endtoend.runs import Body
from recovery.demands import Samples
from recovery.steps import follow, read, trained

__all__ = ["EVENTS", "LOSSES"]

_SECONDS = 300.0
_OFTEN = 0.1
_KILLING = f"import time\nprint(time.time())\n{KILL_RANKS}"
_TWO_NODES = {"nodes": {"min": 2, "max": 2}}
_ONE_OR_TWO = {"nodes": {"min": 1, "max": 2}}


def life(bench: Bench, turn: int) -> Samples:
    """One run that starts, loses a rank, loses a pod, and is suspended."""
    body = recovering("bench-life", epochs=500, resources=_TWO_NODES)
    name = body["metadata"]["name"]
    training.remove(bench.platform, name, bench.namespace)
    began = time.time()
    bench.apply(body)
    found = {"start": [_first_step(bench, name, attempt=1, above=0) - began]}
    found["rank"] = [_recovery(bench, name, 1, lambda: _kill_ranks(bench, name, turn % 2))]
    found["pod"] = [_recovery(bench, name, 2, lambda: _delete_pod(bench, name, turn % 2))]
    status = bench.wait(name, lambda body: _saved(body, attempt=3), _SECONDS)["status"]
    began = time.time()
    bench.access.suspend(name, suspended=True)
    _until(lambda: not bench.access.pods(name), "the end of the pods")
    save = float(status["checkpoint"].get("seconds") or 0.0)
    found["suspend"] = [time.time() - began - save]
    bench.kubectl("delete", "qft", name, "--wait=true")
    return found


def node(bench: Bench, turn: int) -> Samples:
    """One run whose node dies, and which goes on with the other one."""
    del turn
    return {"node": [_without_a_node(bench)]}


def node_by_default(bench: Bench, turn: int) -> Samples:
    """Lose it before a control plane that takes as long to notice as Kubernetes does unasked."""
    del turn
    return {"node_by_default": [_without_a_node(bench)]}


def _without_a_node(bench: Bench) -> float:
    nodes, name = Nodes(bench), "bench-node"
    # A run that finds one node starts there, and is ended for the second when that dies.
    _until(lambda: not _pods_of(bench, name) and _untainted(bench), "two nodes that are free")
    bench.submit(recovering(name, epochs=500, resources=_ONE_OR_TWO))
    try:
        return _recovery(bench, name, 1, lambda: _kill_node(bench, nodes))
    finally:
        bench.kubectl("delete", "qft", name, "--wait=false")
        nodes.revive()


def operator(bench: Bench, turn: int) -> Samples:
    """End the operator, and edit a suspended run as soon as it is surely gone."""
    body = recovering("bench-still", resources=_TWO_NODES, runPolicy={"suspend": True})
    name = body["metadata"]["name"]
    if turn == 0:
        bench.submit(body)
    bench.wait(name, _is_known, _SECONDS)
    old = _operator(bench)
    began = time.time()
    # It has a second to end in; the successor is made at once.
    _system(bench, "delete", "pod", old, "--grace-period=1", "--wait=true")
    edit = json.dumps({"spec": {"runPolicy": {"backoffLimit": 10 + turn}}})
    bench.kubectl("patch", "qft", name, "--type=merge", "-p", edit)
    _until(lambda: _is_known(dict(bench.access.run(name))), "the operator's look at the edit")
    took = time.time() - began
    _system(bench, "wait", "--for=condition=Ready", "pod", "-l", _LABEL, "--timeout=60s")
    return {"operator": [took]}


EVENTS: dict[str, Callable[[Bench, int], Samples]] = {
    each.__name__: each for each in (life, node, operator, node_by_default)
}
LOSSES: dict[str, NodeLoss] = {"node_by_default": KUBERNETES_DEFAULT}
"""Events before a control plane of other timings than the tests' quick ones: the cluster is started
anew for them, and by whoever comes after them."""
_LABEL = "app.kubernetes.io/name=qwenft-operator"


def _recovery(bench: Bench, name: str, attempt: int, strike: Callable[[], float]) -> float:
    """Return the seconds from ``strike`` until the next attempt trains a new step."""
    bench.wait(name, lambda body: _saved(body, attempt=attempt), _SECONDS)
    with ExitStack() as stack:
        told = stack.enter_context(follow(bench, pod_of(bench, name, 0, attempt)))
        _until(lambda: bool(trained(told.read_text())), "the first line of the log")
        struck = strike()
        _until(lambda: _pods(bench, name, attempt + 1) != (), "the next attempt's pods")
        newest = max(step for _, step in trained(told.read_text()))
    return _first_step(bench, name, attempt=attempt + 1, above=newest) - struck


def _first_step(bench: Bench, name: str, *, attempt: int, above: int) -> float:
    """Return when an attempt trained its first step of a number above ``above``."""
    found: list[float] = []

    def look() -> bool:
        for pod in _pods(bench, name, attempt, index=0):
            found.extend(when for when, step in read(bench, pod) if step > above)
        return bool(found)

    _until(look, f"a step above {above} of attempt {attempt} of {name}")
    return min(found)


def _pods(bench: Bench, name: str, attempt: int, *, index: int | None = None) -> tuple[str, ...]:
    labels = f"qwenft.dev/run={name},qwenft.dev/attempt={attempt}"
    if index is not None:
        labels += f",batch.kubernetes.io/job-completion-index={index}"
    return tuple(bench.kubectl("get", "pods", "-l", labels, "-o", "name").split())


def _kill_ranks(bench: Bench, name: str, index: int) -> float:
    """Kill a pod's ranks; returns when."""
    pod = pod_of(bench, name, index, attempt=1)
    return float(bench.kubectl("exec", pod, "--", "python", "-c", _KILLING).split()[0])


def _delete_pod(bench: Bench, name: str, index: int) -> float:
    pod = pod_of(bench, name, index, attempt=2)
    began = time.time()
    bench.kubectl("delete", "pod", pod, "--wait=false")
    return began


def _pods_of(bench: Bench, name: str) -> str:
    return bench.kubectl("get", "pods", "-l", f"qwenft.dev/run={name}", "-o", "name")


def _untainted(bench: Bench) -> bool:
    """Whether no node keeps pods away: one that has just come back does so for a moment."""
    return not bench.kubectl("get", "nodes", "-o", "jsonpath={.items[*].spec.taints[*].key}")


def _kill_node(bench: Bench, nodes: Nodes) -> float:
    victim = node_without_operator(bench)
    began = time.time()
    nodes.kill(victim)
    return began


def _saved(body: Body, *, attempt: int) -> bool:
    """Whether the attempt trains and has saved by itself."""
    status = body.get("status") or {}
    progress, checkpoint = status.get("progress") or {}, status.get("checkpoint") or {}
    trains = status.get("phase") == "Training" and progress.get("attempt") == attempt
    return bool(trains and checkpoint.get("step") and checkpoint.get("seconds"))


def _is_known(body: Body) -> bool:
    known = (body.get("status") or {}).get("observedGeneration")
    return bool(known == body["metadata"]["generation"])


def _operator(bench: Bench) -> str:
    return _system(bench, "get", "pod", "-l", _LABEL, "-o", "jsonpath={.items[0].metadata.name}")


def _system(bench: Bench, *words: str) -> str:
    return platforms.kubectl(bench.platform, "-n", install.SYSTEM, *words)


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise StageError(f"{what} did not come within {_SECONDS:.0f} s")
        time.sleep(_OFTEN)
