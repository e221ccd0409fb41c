"""Every rule of the CRD on a real apiserver: what it accepts and what it refuses, with the words.

The definition is installed under a group of its own, so that no operator and no chart is disturbed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo import platforms
from embedded.stages import StageError
from simulated.builders import run_body

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
GROUP = "rules.qwenft.dev"
NAMESPACE = "qwenft-crd-rules"

Kubectl = Callable[..., str]
Body = dict[str, Any]


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    """Return kubectl on the tests' cluster, with the definition installed."""
    platform = platforms.choose()
    platform.up()

    def call(*words: str, stdin: Any = None) -> str:
        text = None if stdin is None else json.dumps(stdin)
        return platforms.kubectl(platform, *words, stdin=text)

    crd = yaml.safe_load((ROOT / "manifests" / "crd.yaml").read_text(encoding="utf-8"))
    crd["spec"]["group"] = GROUP
    crd["spec"]["names"] |= {"categories": [], "shortNames": []}
    crd["metadata"] = {"name": f"qwenfinetunes.{GROUP}"}
    call("apply", "--server-side", "-f", "-", stdin=crd)
    call("wait", "--for=condition=Established", f"crd/{crd['metadata']['name']}", "--timeout=30s")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    call("apply", "-f", "-", stdin=namespace)
    yield call
    call("delete", "namespace", NAMESPACE, "--wait=false")
    call("delete", "crd", crd["metadata"]["name"], "--wait=false")


def body(name: str = "tiny", **sections: Any) -> Body:
    found = run_body(name, NAMESPACE, **sections)
    found["apiVersion"] = f"{GROUP}/v1alpha1"
    found["spec"] = {key: value for key, value in found["spec"].items() if value is not None}
    return found


def create(kubectl: Kubectl, item: Body) -> str:
    return kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=item)


def test_a_run_that_nobody_has_looked_at_does_not_look_done(kubectl: Kubectl) -> None:
    """For kstatus an object without a status is current."""
    made = kubectl("create", "-o", "json", "-f", "-", stdin=body("fresh"))
    assert json.loads(made)["status"] == {"observedGeneration": -1}


VOLUME = {"persistentVolumeClaim": {"claimName": "data"}}
CPU = {"nodes": {"min": 1}, "processesPerNode": 1}
ACCEPTED: dict[str, Body] = {
    "the builder's run": body(),
    "a name of 45 letters": body("a" * 45),
    "a hub name alone": body(model={"name": "Qwen/Qwen1.5-7B"}) | {},
    "nodes from one to one": body(resources={"nodes": {"min": 1, "max": 1}}),
    "a batch that the degrees divide": body(parallelism={"dataShard": 2, "microBatchSize": 4}),
    "an own variable": body(trainer={"env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}),
    "a variable that only begins so": body(trainer={"env": [{"name": "RANKING", "value": "1"}]}),
    "a script's name": body(trainer={"script": {"configMap": {"name": "x", "key": "tune.py"}}}),
    "memory in Gi": body(resources={"memoryPerNode": "16Gi"}),
    "memory in bytes": body(resources={"memoryPerNode": 17179869184}),
    "a path with two dots in a name": body(output={"path": "/data/a..b", "volume": VOLUME}),
    "data and output in a store, with its Secret": body(
        dataset={"path": "s3://bucket/set.pt", "volume": None},
        output={"path": "s3://bucket/run-1", "volume": None},
        trainer={"envFrom": [{"secretRef": {"name": "store"}}]},
    ),
    "a copy for the hub": body(
        output={"path": "/data/out", "volume": VOLUME, "hub": {"repository": "me/tuned-7b"}}
    ),
    "adapters with peft's defaults": body(training={"method": "lora"}),
    "adapters as described": body(
        training={
            "method": "lora",
            "lora": {"rank": 16, "alpha": 32, "dropout": 0.1, "targetModules": ["q_proj"]},
        },
        output={"path": "/data/out", "mergeAdapter": True},
    ),
    "the one optimizer": body(training={"optimizer": "adamw"}),
    "a script that trains all weights": body(
        training={"method": "full"}, trainer={"script": {"configMap": {"name": "x"}}}
    ),
    "no checkpoints": body(checkpoint={"everySteps": 0}),
}
REFUSED: dict[str, tuple[Body, str]] = {
    "a name of 46 letters": (body("a" * 46), "metadata.name: at most 45"),
    "a name that begins with a digit": (body("7b"), "metadata.name: at most 45"),
    "a name with a dot": (body("a.b"), "metadata.name: at most 45"),
    "no model": (body(model={"path": None, "volume": None}), "spec.model: needs a name"),
    "a volume without a path": (
        body(model={"path": None, "name": "Qwen/Qwen1.5-7B"}),
        "spec.model.path: is needed",
    ),
    "a relative path": (body(output={"path": "out"}), "spec.output.path"),
    "a path that climbs": (body(output={"path": "/data/../etc"}), "must not climb"),
    "a repository without an owner": (
        body(output={"path": "/data/out", "volume": VOLUME, "hub": {"repository": "tuned"}}),
        "spec.output.hub.repository",
    ),
    "a script's model for the hub": (
        body(
            output={"path": "/data/out", "volume": VOLUME, "hub": {"repository": "me/x"}},
            trainer={"script": {"configMap": {"name": "x"}}},
        ),
        "spec.output.hub: is done by the built-in loop only",
    ),
    "a URL that climbs": (
        body(output={"path": "s3://b/../etc", "volume": None}),
        "must not climb",
    ),
    "a URL with a password": (
        body(output={"path": "s3://key:word@b/x", "volume": None}),
        "must hold no credentials",
    ),
    "a URL in a volume": (
        body(dataset={"path": "s3://b/x", "volume": VOLUME}),
        "spec.dataset.volume: is for a path in a volume",
    ),
    "an output's URL in a volume": (
        body(output={"path": "s3://b/x", "volume": VOLUME}),
        "spec.output.volume: is for a path in a volume",
    ),
    "variables from a Secret without a name": (
        body(trainer={"envFrom": [{"secretRef": {}}]}),
        "spec.trainer.envFrom[0].secretRef.name: Required",
    ),
    "no dataset": (body(dataset=None), "spec.dataset: Required"),
    "both kinds of node": (
        body(resources=CPU | {"gpusPerNode": 8}),
        "processesPerNode: is for CPU nodes",
    ),
    "a range of nodes upside down": (
        body(resources={"nodes": {"min": 3, "max": 2}}),
        "spec.resources.nodes.max: is below nodes.min",
    ),
    "a default minimum above the maximum": (
        body(resources={"nodes": {"max": 0}}),
        "spec.resources.nodes.max",
    ),
    "degrees that do not divide the batch": (
        body(parallelism={"dataReplicate": 3}),
        "spec.training.batchSize: must be a multiple",
    ),
    "micro-batches that do not divide the batch": (
        body(parallelism={"dataShard": 2, "microBatchSize": 3}),
        "spec.training.batchSize: must be a multiple",
    ),
    "a variable of torchrun": (
        body(trainer={"env": [{"name": "PET_NNODES", "value": "1"}]}),
        "set by the operator",
    ),
    "a rank": (body(trainer={"env": [{"name": "LOCAL_RANK"}]}), "set by the operator"),
    "a variable of the project": (
        body(trainer={"env": [{"name": "QWENFT_PLAN"}]}),
        "set by the operator",
    ),
    "a variable twice": (
        body(trainer={"env": [{"name": "A"}, {"name": "A"}]}),
        "Duplicate value",
    ),
    "a script that is no Python file": (
        body(trainer={"script": {"configMap": {"name": "x", "key": "run.sh"}}}),
        "spec.trainer.script.configMap.key",
    ),
    "an unknown field": (body(training={"batchSise": 8}), "batchSise"),
    "an unknown scheduler": (body(training={"scheduler": "step"}), "spec.training.scheduler"),
    "adapters of a full fine-tune": (
        body(training={"lora": {"rank": 8}}),
        "spec.training.lora: is for spec.training.method: lora",
    ),
    "a method that is not offered": (body(training={"method": "dora"}), "spec.training.method"),
    "a host that keeps what adapters need": (
        body(training={"method": "qlora", "offloadOptimizer": True}),
        "spec.training.offloadOptimizer: is for method full",
    ),
    "fp8 under adapters": (
        body(training={"method": "lora", "precision": "fp8"}),
        "spec.training.precision: fp8 is for method full",
    ),
    "8-bit Adam by a script": (
        body(
            training={"optimizer": "adamw8bit"},
            trainer={"script": {"configMap": {"name": "x"}}},
        ),
        "spec.training.optimizer: is done by the built-in loop only",
    ),
    "adapters of rank 0": (
        body(training={"method": "lora", "lora": {"rank": 0}}),
        "spec.training.lora.rank",
    ),
    "adapters that drop everything": (
        body(training={"method": "lora", "lora": {"dropout": 1}}),
        "spec.training.lora.dropout",
    ),
    "adapters of the vocabulary": (
        body(training={"method": "lora", "lora": {"targetModules": ["lm_head"]}}),
        "spec.training.lora.targetModules[0]",
    ),
    "a matrix twice": (
        body(training={"method": "lora", "lora": {"targetModules": ["q_proj", "q_proj"]}}),
        "Duplicate value",
    ),
    "adapters by a script": (
        body(
            training={"method": "lora"},
            trainer={"script": {"configMap": {"name": "x"}}},
        ),
        "spec.training.method: is done by the built-in loop only",
    ),
    "merging what is not there": (
        body(output={"path": "/data/out", "mergeAdapter": True}),
        "spec.output.mergeAdapter: is for",
    ),
    "an optimizer that is not offered": (
        body(training={"optimizer": "sgd"}),
        "spec.training.optimizer",
    ),
    "no sample a step": (body(training={"batchSize": 0}), "spec.training.batchSize"),
    "the best of nothing": (body(checkpoint={"keepBest": True}), "evaluateEverySteps"),
    "an unknown tracker": (body(training={"reportTo": ["abacus"]}), "reportTo"),
    "memory in words": (body(resources={"memoryPerNode": "much"}), "memoryPerNode"),
    "a key of no config.json": (body(model={"config": {"hiddenSize": 1}}), "hiddenSize"),
}


def without_nothing(node: Any) -> Any:
    """Drop keys whose value is None: fields that the user leaves out."""
    if isinstance(node, dict):
        return {key: without_nothing(item) for key, item in node.items() if item is not None}
    return node


@pytest.mark.parametrize("case", sorted(ACCEPTED))
def test_accepted(kubectl: Kubectl, case: str) -> None:
    item = ACCEPTED[case]
    if case == "a hub name alone":
        item["spec"]["model"] = {"name": "Qwen/Qwen1.5-7B"}
    assert "created (server dry run)" in create(kubectl, without_nothing(item))


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refused(kubectl: Kubectl, case: str) -> None:
    item, told = REFUSED[case]
    with pytest.raises(StageError) as caught:
        create(kubectl, without_nothing(item))
    assert told in str(caught.value)


FROZEN: dict[str, Any] = {
    "model": {"path": "/data/other"},
    "dataset": {"path": "/data/other.pt"},
    "output": {"path": "/data/elsewhere"},
    "training": {"epochs": 7},
    "checkpoint": {"keep": 9},
    "parallelism": {"dataShard": 2},
    "resources.nodes.min": {"min": 1},
    "resources.processesPerNode": 2,
    "resources.cpusPerProcess": 2,
    "resources.memoryPerNode": "3Gi",
    "resources.nodeSelector": {"disk": "fast"},
    "resources.tolerations": [{"operator": "Exists"}],
    "trainer.script": {"configMap": {"name": "other"}},
    "trainer.args": ["--more"],
    "trainer.env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
    "trainer.rendezvous": "c10d",
    "runPolicy.priorityClassName": "high",
}
EDITABLE: dict[str, Body] = {
    "runPolicy": {"suspend": True, "activeDeadlineSeconds": 60},
    "resources": {"nodes": {"max": 8}},
    "trainer": {"image": "registry.example/trainer:2"},
}


@pytest.fixture(scope="module")
def started(kubectl: Kubectl) -> Iterator[Callable[[str, Body], str]]:
    """Return how to edit a run, before and after its first attempt."""
    kubectl("apply", "-f", "-", stdin=body("started"))

    def edit(section: str, fields: Body) -> str:
        patch = json.dumps({"spec": {section: fields}})
        words = ["patch", f"qwenfinetunes.{GROUP}", "started", "-n", NAMESPACE]
        return kubectl(*words, "--type=merge", "--dry-run=server", "-p", patch)

    yield edit
    kubectl("delete", f"qwenfinetunes.{GROUP}", "started", "-n", NAMESPACE, "--wait=false")


def set_attempt(kubectl: Kubectl, attempt: int) -> None:
    words = ["patch", f"qwenfinetunes.{GROUP}", "started", "-n", NAMESPACE, "--type=merge"]
    patch = json.dumps({"status": {"attempt": attempt}})
    kubectl(*words, "--subresource=status", "-p", patch)


def nested(section: str, fields: Any) -> tuple[str, Body]:
    """Return the top section, and what to lay over it."""
    top, *keys = section.split(".")
    if keys[-1:] == ["min"]:
        keys = keys[:-1]
    for key in reversed(keys):
        fields = {key: fields}
    return top, fields


@pytest.mark.parametrize("section", sorted(FROZEN))
def test_what_an_attempt_runs_is_frozen_from_its_start(
    kubectl: Kubectl, started: Callable[[str, Body], str], section: str
) -> None:
    top, fields = nested(section, copy.deepcopy(FROZEN[section]))
    set_attempt(kubectl, 0)
    assert "patched" in started(top, fields)
    set_attempt(kubectl, 1)
    with pytest.raises(StageError) as caught:
        started(top, fields)
    assert f"spec.{section}: cannot change once an attempt has started" in str(caught.value)


def test_who_manages_a_run_never_changes(
    kubectl: Kubectl, started: Callable[[str, Body], str]
) -> None:
    set_attempt(kubectl, 0)
    with pytest.raises(StageError, match=r"spec.runPolicy.managedBy: cannot change"):
        started("runPolicy", {"managedBy": "kueue.x-k8s.io/multikueue"})


@pytest.mark.parametrize("section", sorted(EDITABLE))
def test_what_may_change_in_a_running_run(
    kubectl: Kubectl, started: Callable[[str, Body], str], section: str
) -> None:
    set_attempt(kubectl, 1)
    assert "patched" in started(section, EDITABLE[section])


def test_absent_fields_get_their_defaults(kubectl: Kubectl) -> None:
    item = body("defaults", training={})
    shown = kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=item)
    training = json.loads(shown)["spec"]["training"]
    assert (training["epochs"], training["scheduler"], training["seed"]) == (1, "constant", 0)
