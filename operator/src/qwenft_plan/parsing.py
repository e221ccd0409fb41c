"""Parsing each section of ``spec``; every function raises ``SpecError`` with the field's path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwenft_plan import fields
from qwenft_plan.errors import SpecError
from qwenft_plan.parsing_network import network
from qwenft_plan.parsing_places import dataset, model, output
from qwenft_plan.plan import CHECKPOINTING, METHODS, OPTIMIZERS, PRECISIONS, SCHEDULES
from qwenft_plan.sections import (
    MATRICES,
    Checkpoint,
    EnvFrom,
    EnvVar,
    Lora,
    NodeRange,
    Parallelism,
    Resources,
    RunPolicy,
    Script,
    SecretRef,
    Toleration,
    Trainer,
    Training,
)

__all__ = [
    "checkpoint",
    "dataset",
    "model",
    "output",
    "parallelism",
    "resources",
    "run_policy",
    "trainer",
    "training",
]

TRACKERS = ("tensorboard", "wandb", "mlflow")
SCHEDULERS = ("constant", "linear", "cosine")
CLEAN_POD_POLICIES = ("None", "Running", "All")
RENDEZVOUS = ("static", "c10d")
MOST_NODES = 4096
MOST_PROCESSES = 64
MOST_RANK = 1024
_RESERVED_ENV = re.compile(
    r"PET_.*|MASTER_(ADDR|PORT)|(LOCAL_|GROUP_|ROLE_)?RANK|(LOCAL_)?WORLD_SIZE"
    r"|TORCHELASTIC_.*|QWENFT_.*|KUBEFLOW_TRAINER_.*"
)
_TRAINING = (
    "epochs", "maxSteps", "batchSize", "sequenceLength", "learningRate", "weightDecay",
    "warmupSteps", "scheduler", "maxGradNorm", "seed", "precision", "evaluateEverySteps",
    "reportTo",
    "method", "lora", "optimizer", "offloadOptimizer", "compile",
)  # fmt: skip


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def training(mapping: Mapping[str, Any], path: str) -> Training:
    """Parse ``spec.training``."""
    fields.only_known(mapping, _TRAINING, path)

    def integer(key: str, least: int, default: int) -> int:
        return _or(fields.integer(mapping, key, path, least=least), default)

    return Training(
        epochs=integer("epochs", 1, 1),
        max_steps=fields.integer(mapping, "maxSteps", path, least=1),
        batch_size=integer("batchSize", 1, 64),
        sequence_length=integer("sequenceLength", 2, 2048),
        learning_rate=fields.number(mapping, "learningRate", path, least=0.0, default=1e-5),
        weight_decay=fields.number(mapping, "weightDecay", path, least=0.0, default=0.0),
        warmup_steps=integer("warmupSteps", 0, 0),
        scheduler=fields.choice(mapping, "scheduler", path, SCHEDULERS, "constant"),
        max_grad_norm=fields.number(mapping, "maxGradNorm", path, least=0.0, default=1.0),
        seed=integer("seed", 0, 0),
        precision=fields.choice(mapping, "precision", path, PRECISIONS, "bf16"),
        evaluate_every_steps=fields.integer(mapping, "evaluateEverySteps", path, least=1),
        report_to=_trackers(mapping, path),
        method=fields.choice(mapping, "method", path, METHODS, "full"),
        lora=_lora(mapping, path),
        optimizer=fields.choice(mapping, "optimizer", path, OPTIMIZERS, "adamw"),
        offload_optimizer=fields.boolean(mapping, "offloadOptimizer", path, default=False),
        compile=fields.boolean(mapping, "compile", path, default=False),
    )


def _trackers(mapping: Mapping[str, Any], path: str) -> tuple[str, ...]:
    named = _list(mapping, "reportTo", path)
    for index, item in enumerate(named):
        if item not in TRACKERS:
            where = f"{path}.reportTo[{index}]"
            raise SpecError(where, f"{item!r} is none of {', '.join(TRACKERS)}")
        if item in named[:index]:
            raise SpecError(f"{path}.reportTo[{index}]", f"{item!r} is there twice")
    return tuple(named)


def _lora(training: Mapping[str, Any], path: str) -> Lora | None:
    if training.get("lora") is None:
        return None
    mapping, where = fields.section(training, "lora", path), f"{path}.lora"
    fields.only_known(mapping, ("rank", "alpha", "dropout", "targetModules"), where)
    dropout = fields.number(mapping, "dropout", where, least=0.0, default=0.0)
    if dropout >= 1.0:
        raise SpecError(f"{where}.dropout", f"{dropout:g} is not below 1")
    return Lora(
        rank=_or(fields.integer(mapping, "rank", where, least=1, most=MOST_RANK), Lora().rank),
        alpha=fields.number(mapping, "alpha", where, least=0.0, default=Lora().alpha),
        dropout=dropout,
        target_modules=_targets(mapping, where),
    )


def _targets(mapping: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """Return the adapted matrices in the order of a block."""
    wanted = _list(mapping, "targetModules", path) or list(MATRICES)
    for index, name in enumerate(wanted):
        if name not in MATRICES:
            message = f"{name!r} is none of {', '.join(MATRICES)}"
            raise SpecError(f"{path}.targetModules[{index}]", message)
    return tuple(name for name in MATRICES if name in wanted)


def _nodes(mapping: Mapping[str, Any], path: str) -> NodeRange:
    nodes = fields.section(mapping, "nodes", path)
    fields.only_known(nodes, ("min", "max"), f"{path}.nodes")
    least = _or(fields.integer(nodes, "min", f"{path}.nodes", least=1, most=MOST_NODES), 1)
    most = fields.integer(nodes, "max", f"{path}.nodes", least=1, most=MOST_NODES)
    if most is not None and most < least:
        raise SpecError(f"{path}.nodes.max", f"{most} is below nodes.min, {least}")
    return NodeRange(min=least, max=most)


def _toleration(value: object, path: str) -> Toleration:
    if not isinstance(value, Mapping):
        raise SpecError(path, "must be a mapping")
    fields.only_known(value, ("key", "operator", "value", "effect"), path)
    return Toleration(
        key=fields.text(value, "key", path),
        operator=fields.choice(value, "operator", path, ("Equal", "Exists"), "Equal"),
        value=fields.text(value, "value", path),
        effect=fields.text(value, "effect", path),
    )


def resources(mapping: Mapping[str, Any], path: str) -> Resources:
    """Parse ``spec.resources``."""
    known = ("nodes", "gpusPerNode", "processesPerNode", "cpusPerProcess", "memoryPerNode",
             "nodeSelector", "tolerations", "network")  # fmt: skip
    fields.only_known(mapping, known, path)
    gpus = fields.integer(mapping, "gpusPerNode", path, least=1, most=MOST_PROCESSES)
    processes = fields.integer(mapping, "processesPerNode", path, least=1, most=MOST_PROCESSES)
    if gpus is not None and processes is not None:
        raise SpecError(f"{path}.processesPerNode", "is for CPU nodes; gpusPerNode is given too")
    selector = fields.section(mapping, "nodeSelector", path)
    return Resources(
        nodes=_nodes(mapping, path),
        gpus_per_node=gpus,
        processes_per_node=processes,
        cpus_per_process=_or(fields.integer(mapping, "cpusPerProcess", path, least=1, most=256), 1),
        memory_per_node=fields.quantity(mapping, "memoryPerNode", path),
        node_selector={key: fields.text(selector, key, f"{path}.nodeSelector") for key in selector},
        tolerations=tuple(
            _toleration(item, f"{path}.tolerations[{i}]")
            for i, item in enumerate(_list(mapping, "tolerations", path))
        ),
        network=network(fields.section(mapping, "network", path), f"{path}.network"),
    )


def _list(mapping: Mapping[str, Any], key: str, path: str) -> list[Any]:
    value = mapping.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise SpecError(f"{path}.{key}", f"must be a list, not {type(value).__name__}")
    return value


def parallelism(mapping: Mapping[str, Any], path: str) -> Parallelism:
    """Parse ``spec.parallelism``."""
    known = ("dataReplicate", "dataShard", "tensor", "pipeline", "microBatchSize",
             "activationCheckpointing", "pipelineSchedule")  # fmt: skip
    fields.only_known(mapping, known, path)

    def degree(key: str) -> int | None:
        return fields.integer(mapping, key, path, least=1, most=65536)

    return Parallelism(
        data_replicate=degree("dataReplicate"),
        data_shard=degree("dataShard"),
        tensor=degree("tensor"),
        pipeline=degree("pipeline"),
        micro_batch_size=degree("microBatchSize"),
        activation_checkpointing=fields.choice(
            mapping, "activationCheckpointing", path, CHECKPOINTING, ""
        )
        or None,
        pipeline_schedule=fields.choice(mapping, "pipelineSchedule", path, SCHEDULES, "") or None,
    )


def _script(mapping: Mapping[str, Any], path: str) -> Script | None:
    script = fields.section(mapping, "script", path)
    if not script:
        return None
    where = f"{path}.script.configMap"
    fields.only_known(script, ("configMap",), f"{path}.script")
    config_map = fields.section(script, "configMap", f"{path}.script")
    fields.only_known(config_map, ("name", "key"), where)
    name = fields.text(config_map, "name", where)
    key = fields.text(config_map, "key", where, "train.py")
    if not name:
        raise SpecError(f"{where}.name", "is needed: the ConfigMap that holds the script")
    if not re.fullmatch(r"[-._a-zA-Z0-9]+\.py", key):
        raise SpecError(
            f"{where}.key", f"must be a Python file's name such as train.py, not {key!r}"
        )
    return Script(config_map=name, key=key)


def _env(value: object, path: str) -> EnvVar:
    if not isinstance(value, Mapping):
        raise SpecError(path, "must be a mapping")
    fields.only_known(value, ("name", "value"), path)
    name = fields.text(value, "name", path)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise SpecError(f"{path}.name", f"{name!r} is no name of an environment variable")
    if _RESERVED_ENV.fullmatch(name):
        raise SpecError(f"{path}.name", f"{name} is set by the operator and cannot be overridden")
    text = value.get("value", "")
    if not isinstance(text, str):
        raise SpecError(f"{path}.value", f"must be a string, not {type(text).__name__}")
    return EnvVar(name=name, value=text)


def _env_from(value: object, path: str) -> EnvFrom:
    if not isinstance(value, Mapping):
        raise SpecError(path, "must be a mapping")
    fields.only_known(value, ("secretRef",), path)
    secret = fields.section(value, "secretRef", path)
    fields.only_known(secret, ("name",), f"{path}.secretRef")
    name = fields.text(secret, "name", f"{path}.secretRef")
    if not name:
        raise SpecError(f"{path}.secretRef.name", "is needed: a Secret in the run's namespace")
    return EnvFrom(secret_ref=SecretRef(name=name))


def trainer(mapping: Mapping[str, Any], path: str) -> Trainer:
    """Parse ``spec.trainer``."""
    known = ("image", "imagePullPolicy", "script", "args", "env", "envFrom", "rendezvous")
    fields.only_known(mapping, known, path)
    args = _list(mapping, "args", path)
    for index, item in enumerate(args):
        if not isinstance(item, str):
            raise SpecError(f"{path}.args[{index}]", f"must be a string, not {item!r}")
    policies = ("Always", "IfNotPresent", "Never")
    return Trainer(
        image=fields.text(mapping, "image", path),
        image_pull_policy=fields.choice(mapping, "imagePullPolicy", path, policies, ""),
        script=_script(mapping, path),
        args=tuple(args),
        env=tuple(
            _env(item, f"{path}.env[{i}]") for i, item in enumerate(_list(mapping, "env", path))
        ),
        env_from=tuple(
            _env_from(item, f"{path}.envFrom[{i}]")
            for i, item in enumerate(_list(mapping, "envFrom", path))
        ),
        rendezvous=fields.choice(mapping, "rendezvous", path, RENDEZVOUS, "static"),
    )


def checkpoint(mapping: Mapping[str, Any], path: str) -> Checkpoint:
    """Parse ``spec.checkpoint``."""
    fields.only_known(mapping, ("everySteps", "keep", "keepBest"), path)
    return Checkpoint(
        every_steps=fields.integer(mapping, "everySteps", path, least=0) or None,
        keep=_or(fields.integer(mapping, "keep", path, least=1, most=100), 2),
        keep_best=fields.boolean(mapping, "keepBest", path, default=False),
    )


def run_policy(mapping: Mapping[str, Any], path: str) -> RunPolicy:
    """Parse ``spec.runPolicy``."""
    known = ("suspend", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished",
             "cleanPodPolicy", "priorityClassName", "managedBy")  # fmt: skip
    fields.only_known(mapping, known, path)
    return RunPolicy(
        suspend=fields.boolean(mapping, "suspend", path, default=False),
        backoff_limit=_or(fields.integer(mapping, "backoffLimit", path, least=0, most=100), 3),
        active_deadline_seconds=fields.integer(mapping, "activeDeadlineSeconds", path, least=1),
        ttl_seconds_after_finished=fields.integer(
            mapping, "ttlSecondsAfterFinished", path, least=0
        ),
        clean_pod_policy=fields.choice(
            mapping, "cleanPodPolicy", path, CLEAN_POD_POLICIES, "Running"
        ),
        priority_class_name=fields.text(mapping, "priorityClassName", path),
        managed_by=fields.text(mapping, "managedBy", path),
    )
