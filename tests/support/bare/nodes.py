"""Fake nodes and what KWOK lets their pods do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bare.plane import Plane

__all__ = ["ending", "forever", "make_nodes", "node", "start_kwok"]

Stage = dict[str, Any]


def node(name: str, *, cpus: int = 64, gpus: int = 0) -> dict[str, Any]:
    """Return a Node that is ready and stays so."""
    size = {"cpu": str(cpus), "memory": "512Gi", "pods": "250"}
    labels = {"kubernetes.io/hostname": name}
    if gpus:
        size["nvidia.com/gpu"] = str(gpus)
        labels |= {
            "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
            "nvidia.com/gpu.memory": "81559",
        }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {
            "capacity": size,
            "allocatable": size,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Fake",
                            "lastHeartbeatTime": None, "lastTransitionTime": None}],
        },
    }  # fmt: skip


def make_nodes(plane: Plane, count: int, *, gpus: int = 0) -> None:
    """Create nodes from ``node-0000`` on."""
    items = [node(f"node-{index:04d}", gpus=gpus) for index in range(count)]
    for begin in range(0, count, 250):
        listing = {"apiVersion": "v1", "kind": "List", "items": items[begin : begin + 250]}
        plane.kubectl("create", "-f", "-", stdin=listing)


def start_kwok(plane: Plane, *stages: Stage, linger: float = 0, saves: bool = False) -> None:
    """Start KWOK; nodes are left alone, pods go through the stages and linger when deleted.

    With ``saves`` pods that are deleted end as the trainer does before they are gone, with exit
    code 64. A Job counts a pod that others than itself have deleted only once it has ended.
    """
    file = plane.folder / "stages.yaml"
    going = (_saving(linger), _deleted(0, *_OVER)) if saves else (_deleted(linger),)
    every = (_CONFIGURATION, _running(), *stages, *going, _node_stage())
    file.write_text("\n---\n".join(json.dumps(stage) for stage in every), encoding="utf-8")
    plane.start(
        "kwok", plane.program("kwok"), f"--kubeconfig={plane.kubeconfig('admin')}",
        f"--config={file}", "--manage-all-nodes=true", "--node-lease-duration-seconds=0",
        f"--server-address=127.0.0.1:{plane.ports['kwok']}",
    )  # fmt: skip


def _stage(
    name: str,
    expressions: list[dict[str, Any]],
    following: Mapping[str, Any],
    *,
    seconds: float = 0,
) -> Stage:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": expressions},
            "next": dict(following),
            **({"delay": {"durationMilliseconds": int(seconds * 1000)}} if seconds else {}),
        },
    }


_CONFIGURATION = {
    "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
    "kind": "KwokConfiguration",
    "options": {
        "podPlayStageParallelism": 32, "nodePlayStageParallelism": 4, "nodeLeaseParallelism": 4,
    },
}  # fmt: skip
"""Kubelets do not wait for each other; by four, its default, ten thousand pods come up slowly."""
_THERE = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
_GOING = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
_OVER = ("Pending", "Succeeded", "Failed")
"""Phases in which nothing of a pod runs."""


def _in(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}


def _running() -> Stage:
    template = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""
    return _stage("runs", [_THERE, _in(".status.phase", "Pending")], {"statusTemplate": template})


def _deleted(seconds: float, *phases: str) -> Stage:
    chosen = [_GOING, *([_in(".status.phase", *phases)] if phases else [])]
    return _stage("goes", chosen, {"delete": True}, seconds=seconds)


def _saving(seconds: float) -> Stage:
    message = json.dumps({"exitCode": 64, "reason": "Preempted"})
    chosen = [_GOING, _in(".status.phase", "Running")]
    return _stage("saves", chosen, {"statusTemplate": _ended(64, message)}, seconds=seconds)


def ending(
    attempt: int, code: int, *, seconds: float, message: str = "", run: str = "", index: str = ""
) -> Stage:
    """Return a stage: pods of that attempt end with ``code`` after ``seconds``."""
    chosen = [_THERE, _in(".status.phase", "Running"),
              _in('.metadata.labels["qwenft.dev/attempt"]', str(attempt))]  # fmt: skip
    if run:
        chosen.append(_in('.metadata.labels["qwenft.dev/run"]', run))
    if index:
        label = '.metadata.labels["batch.kubernetes.io/job-completion-index"]'
        chosen.append(_in(label, index))
    name = f"ends-{attempt}-{code}-{run or 'any'}"
    return _stage(name, chosen, {"statusTemplate": _ended(code, message)}, seconds=seconds)


def _ended(code: int, message: str) -> str:
    phase = "Failed" if code else "Succeeded"
    return f"""
{{{{ $now := Now }}}}
phase: {phase}
conditions:
- {{type: Ready, status: "False", lastTransitionTime: {{{{ $now | Quote }}}}}}
containerStatuses:
{{{{ range .spec.containers }}}}
- name: {{{{ .name | Quote }}}}
  image: {{{{ .image | Quote }}}}
  ready: false
  restartCount: 0
  state:
    terminated:
      exitCode: {code}
      reason: {"Error" if code else "Completed"}
      message: {json.dumps(message)}
      startedAt: {{{{ $now | Quote }}}}
      finishedAt: {{{{ $now | Quote }}}}
{{{{ end }}}}
"""


def forever() -> tuple[Stage, ...]:
    """Return no stage: pods run until they are deleted."""
    return ()


def _node_stage() -> Stage:
    """Return a stage that no node meets, so that KWOK adds none of its own."""
    never = _in('.metadata.labels["kwok.x-k8s.io/never"]', "true")
    stage = _stage("node", [never], {"statusTemplate": "phase: Running"})
    stage["spec"]["resourceRef"] = {"apiGroup": "v1", "kind": "Node"}
    return stage
