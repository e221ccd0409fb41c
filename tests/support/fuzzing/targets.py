"""The parsers that read what others wrote, and the errors that they may raise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from fuzzing.mutate import anything, damaged, mutated
from qwenft_operator.nodes import capacity
from qwenft_operator.observe import Children, observe
from qwenft_operator.progress_server import _progress
from qwenft_operator.quantities import amount
from qwenft_operator.run import Owner, Run
from qwenft_plan.errors import Infeasible, SpecError
from qwenft_plan.estimate import estimate_line
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import Plan
from qwenft_plan.sections import Resources
from qwenft_plan.spec import FinetuneSpec
from simulated.builders import CONFIG, node_body, run_body, spec_mapping

__all__ = ["TARGETS", "Target"]

PLAN = Plan(
    world_size=8, nodes=2, processes_per_node=4, pp=2, dp_replicate=2, dp_shard=1, tp=2,
    micro_batch_size=2, gradient_accumulation_steps=2, global_batch_size=8, sequence_length=64,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One parser: how an input is made, how it is read, which errors are its answers."""

    name: str
    make: Callable[[Random], Any]
    read: Callable[[Any], Any]
    answers: tuple[type[Exception], ...] = ()

    def try_one(self, chance: Random) -> None:
        """Feed one input; whatever is raised beyond the answers is a crash."""
        given = self.make(chance)
        try:
            self.read(given)
        except self.answers:
            return


REQUEST = spec_mapping(
    trainer={
        "image": "x:1",
        "script": {"configMap": {"name": "code", "key": "train.py"}},
        "args": ["--a", "b"],
        "env": [{"name": "A", "value": "b"}],
    },
    resources={"memoryPerNode": "16Gi", "nodeSelector": {"pool": "a"},
               "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]},
    parallelism={"dataShard": 2, "tensor": 1},
    checkpoint={"everySteps": 5, "keep": 2},
    runPolicy={"suspend": False, "backoffLimit": 3},
)  # fmt: skip
REPORT = {
    "trainerStatus": {
        "progressPercentage": 25,
        "estimatedRemainingSeconds": 60,
        "metrics": [{"name": "loss", "value": "1.5"}, {"name": "global_step", "value": "3"}],
        "lastUpdatedTime": "2026-01-01T00:00:00Z",
    },
    "qwenft": {"attempt": 1, "step": 5, "totalSteps": 10, "loss": 1.5, "planDigest": "abc"},
}
ROW = {"model": "Qwen2.5-7B", "gpu": "H100", "n_gpus": 8, "gpus_per_node": 8, "seq_len": 4096,
       "global_batch": 64, "micro_batch": 1, "fsdp": 8, "recompute": "full", "precision": "bf16",
       "params_b": 7.6, "hidden": 3584, "layers": 28, "heads": 28, "kv_heads": 4, "ffn": 18944,
       "vocab": 152064, "framework": "torchtitan", "zero": "3"}  # fmt: skip
NODE = node_body(
    "gpu-1",
    allocatable={"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"},
    labels={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559",
            "nvidia.com/gpu.count": "8", "pool": "a"},
    taints=({"key": "a", "value": "b", "effect": "NoSchedule"},),
)  # fmt: skip
MESSAGE = {"exitCode": 68, "reason": "OutOfMemory", "message": "x", "rank": 3, "step": 7,
           "result": {"steps": 5, "seconds": 1.5}}  # fmt: skip


def _texts(value: Any, chance: Random) -> Any:
    """Change only texts: what the apiserver lets anybody write into labels and quantities."""
    if isinstance(value, dict):
        return {key: _texts(item, chance) for key, item in value.items()}
    if not isinstance(value, str) or chance.randrange(3):
        return value
    at = chance.randrange(len(value) + 1)
    return value[:at] + str(anything(chance, 0)) + value[at + chance.randrange(4) :]


def _node(chance: Random) -> dict[str, Any]:
    node = dict(NODE)
    node["metadata"] = {"name": "gpu-1", "labels": _texts(NODE["metadata"]["labels"], chance)}
    status = dict(NODE["status"])
    status["allocatable"] = _texts(status["allocatable"], chance)
    return node | {"status": status}


def _offer(node: Mapping[str, Any]) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"nodeName": "gpu-1", "containers": [
        {"resources": {"requests": node["status"]["allocatable"]}}]}}  # fmt: skip
    for resources in (Resources(), Resources(gpus_per_node=8), Resources(processes_per_node=1)):
        found = capacity(resources, [node], [pod])
        found.inventory.describe()


def _pod(chance: Random) -> dict[str, Any]:
    message = json.dumps(mutated(MESSAGE, chance)) if chance.randrange(4) else "x"
    text = damaged(message.encode("utf-8", "replace"), chance).decode("utf-8", "replace")
    labels = {"qwenft.dev/run": "tiny", "qwenft.dev/run-uid": "u", "qwenft.dev/attempt": "1",
              "batch.kubernetes.io/job-completion-index": "0"}  # fmt: skip
    ended = {"exitCode": chance.choice((0, 1, 64, 68, 70, 137)), "message": text, "reason": "Error"}
    return {
        "metadata": {"name": "p", "uid": "v", "labels": _texts(labels, chance),
                     "ownerReferences": [{"uid": "j", "controller": True, "kind": "Job"}]},
        "spec": {"nodeName": "n", "containers": []},
        "status": {"phase": "Failed", "containerStatuses": [
            {"name": "trainer", "state": {"terminated": ended}}]},
    }  # fmt: skip


def _observe(pod: Mapping[str, Any]) -> None:
    owner = Owner(name="tiny", namespace="team", uid="u", spec={})
    observe(owner, Children(jobs=(), pods=(pod,), config_maps=()))


def _body(data: bytes) -> None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict):
        _progress(document, 1)


def _json(document: Any, chance: Random) -> bytes:
    text = json.dumps(mutated(document, chance)).encode("utf-8", "replace")
    return text if chance.randrange(2) else damaged(text, chance)


def _request(chance: Random) -> Any:
    return mutated(REQUEST, chance) if chance.randrange(20) else anything(chance)


def _text(chance: Random) -> str:
    seeds = ("2x8xH100-80G", "2x4xcpu", "1x8xA100-40G,3x4xL4-24G", "4x2xcpu-16G")
    return damaged(chance.choice(seeds).encode(), chance).decode("utf-8", "replace")


def _quantity(chance: Random) -> Any:
    return mutated(["16Gi", "100m", 5, "1e3"], chance)


TARGETS = (
    Target(name="request", make=_request, read=FinetuneSpec.from_mapping, answers=(SpecError,)),
    Target(name="resource", make=lambda c: run_body() | {
        "metadata": {"name": "t", "namespace": "n", "uid": "u",
                     "creationTimestamp": str(anything(c, 0))}, "spec": _request(c)},
        read=Run.from_object),
    Target(name="plan file", make=lambda c: _json(PLAN.to_mapping(), c).decode("utf-8", "replace"),
           read=Plan.from_json, answers=(SpecError,)),
    Target(name="report body", make=lambda c: _json(REPORT, c), read=_body, answers=(SpecError,)),
    Target(name="model config", make=lambda c: mutated(CONFIG, c), read=ModelShape.from_config,
           answers=(SpecError,)),
    Target(name="node labels and quantities", make=_node, read=_offer),
    Target(name="quantity", make=_quantity, read=lambda items: [amount(item) for item in items]),
    Target(name="termination message", make=_pod, read=_observe),
    Target(name="inventory text", make=_text, read=Inventory.parse,
           answers=(SpecError, Infeasible)),
    Target(name="estimate line", make=lambda c: _json(ROW, c).decode("utf-8", "replace"),
           read=lambda line: json.loads(estimate_line(line))),
)  # fmt: skip
