"""Applying a run, watching it to its end, and what to say afterwards."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.install import RELEASE, SYSTEM
from demo.platforms import Platform, kubectl
from embedded.stages import StageError, stage, wait_until
from qwenft_cli import watch, wording
from qwenft_cli.access import Access, Address
from qwenft_cli.connect import connect
from qwenft_cli.snapshot import Snapshot

__all__ = ["access", "apply", "follow", "remove", "summary"]

_CHILDREN = "jobs,pods,services,configmaps,networkpolicies"
_GONE_SECONDS = 120
_WIDTH = 80


def access(platform: Platform, namespace: str) -> Access:
    """Return the command line's own access to the namespace."""
    return connect(Address(kubeconfig=str(platform.kubeconfig), namespace=namespace))


def remove(platform: Platform, name: str, namespace: str) -> None:
    """Delete a run of an earlier demo and wait until everything that it made is gone."""
    words = ("delete", "qft", name, "-n", namespace, "--ignore-not-found", "--timeout=60s")
    kubectl(platform, *words)
    wait_until(
        lambda: not children(platform, name, namespace),
        seconds=_GONE_SECONDS,
        what=f"the end of the objects of {name}",
        every=0.3,
    )


def children(platform: Platform, name: str, namespace: str) -> tuple[str, ...]:
    """Return ``kind/name`` of every object that carries the run's label."""
    words = ("get", _CHILDREN, "-n", namespace, "-l", f"qwenft.dev/run={name}", "-o", "name")
    return tuple(kubectl(platform, *words).split())


def apply(platform: Platform, body: Mapping[str, Any], namespace: str) -> None:
    """Start a run afresh."""
    name = body["metadata"]["name"]
    with stage(f"kubectl apply -f manifests/samples/{name}.yaml"):
        remove(platform, name, namespace)
        kubectl(platform, "apply", "-n", namespace, "-f", "-", stdin=json.dumps(body))


def follow(platform: Platform, name: str, namespace: str) -> Snapshot:
    """Draw the live view until the run ends; ``StageError`` when it failed."""
    last = watch.until_finished(access(platform, namespace), name)
    if last.phase == "Succeeded":
        return last
    failure = last.failure
    cause = f"{failure.reason}: {failure.message}" if failure else "without a cause in its status"
    raise StageError(
        f"the run {name} failed: {cause}",
        remedy=f"qwenft logs {name} --failed -n {namespace} --kubeconfig {platform.kubeconfig}",
    )


def summary(platform: Platform, last: Snapshot, namespace: str, claim: str) -> str:
    """Return the closing words: plan, losses, speed, where the model lies, what to type next."""
    result = last.result
    path = str(result["outputPath"])
    folder = platform.place_of(claim, namespace)
    rows = [
        ("plan", last.plan),
        ("why", last.reason),
        ("held-out loss", _fall(result)),
        ("speed", _speed(last)),
        ("model", f"{path} in the claim {claim}"),
    ]  # fmt: skip
    if folder:
        inside = path.split("/", 2)[-1]
        rows.append(("on this machine", f"{folder}/{inside}"))
    lines = [_row(label, text) for label, text in rows]
    return "\n".join([*lines, "", "what to type next", *_next(platform, last.name, namespace)])


def _fall(result: Mapping[str, Any]) -> str:
    before, after = result["validationLossBefore"], result["validationLossAfter"]
    share = 100 * (after - before) / before
    return f"{wording.number(before)} → {wording.number(after)} ({share:+.0f} %)"


def _row(label: str, text: str) -> str:
    """Return label and text in two columns of a terminal of eighty."""
    first = f"  {label:<16}"
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _speed(last: Snapshot) -> str:
    measured = last.result.get("tokensPerSecond") or last.measured.get("tokensPerSecond")
    predicted = last.predicted.get("tokensPerSecond")
    parts = [f"{wording.count(measured)} tokens/s" if measured else "not measured"]
    if predicted:
        parts.append(f"(predicted {wording.count(predicted)})")
    return " ".join(parts)


def _next(platform: Platform, name: str, namespace: str) -> list[str]:
    folders = [str(Path(platform.tool(tool)).parent) for tool in ("kubectl", "helm")]
    path = [f"  export PATH={':'.join(folders)}:$PATH"] if folders[0] != "." else []
    return [
        f"  export KUBECONFIG={platform.kubeconfig}",
        *path,
        f"  kubectl get qft -n {namespace}",
        f"  kubectl describe qft {name} -n {namespace}",
        f"  .venv/bin/qwenft report {name} -n {namespace} -o report.html",
        f"  .venv/bin/qwenft submit manifests/samples/{name}-tensor.yaml -n {namespace}",
        f"  helm uninstall {RELEASE} -n {SYSTEM}",
        "  make cluster-down",
    ]
