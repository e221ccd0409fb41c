"""One attempt: an Indexed Job whose completion index is the node rank.

The Job controller makes, counts and tears down the gang; whether there is another attempt is the
operator's to decide, hence ``backoffLimit: 0`` and a pod that is never restarted in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenft_operator import names
from qwenft_operator.render.environment import environment
from qwenft_operator.render.metadata import metadata
from qwenft_operator.render.placement import Placement
from qwenft_operator.render.resources import resources
from qwenft_operator.render.volumes import mounts, volumes
from qwenft_operator.run import Owner, Settings
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec, Trainer

__all__ = ["job"]

_USER = 1000
_GRACE_SECONDS = 60
"""Time for a last checkpoint after SIGTERM."""


def job(
    spec: FinetuneSpec,
    plan: Plan,
    owner: Owner,
    attempt: int,
    *,
    settings: Settings,
    placement: Placement,
    extra: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the attempt's Job; ``extra`` are variables of this attempt.

    Without a queue ``spec.suspend`` is left out. With one the Job is made suspended, and from then
    on the field is Kueue's: nothing here ever writes it again.
    """
    meta = metadata(owner, names.job(owner.name, attempt), attempt=str(attempt), plan=plan.digest)
    pod: dict[str, Any] = {"labels": dict(meta["labels"])}
    annotations = dict(placement.wiring.annotations) | dict(owner.topology)
    if settings.progress_url:
        annotations[names.ANNOTATION_CA] = settings.progress_ca
    if annotations:
        pod["annotations"] = annotations
    meta["labels"] |= owner.queueing
    suspended = {"suspend": True} if owner.queue else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "completionMode": "Indexed",
            "completions": plan.nodes,
            "parallelism": plan.nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            **suspended,
            "template": {
                "metadata": pod,
                "spec": _pod(spec, plan, owner, attempt, settings, placement, extra or {}),
            },
        },
    }


def _pod(
    spec: FinetuneSpec,
    plan: Plan,
    owner: Owner,
    attempt: int,
    settings: Settings,
    placement: Placement,
    extra: Mapping[str, str],
) -> dict[str, Any]:
    variables = environment(spec, plan, owner, attempt, settings=settings, placement=placement)
    variables += [{"name": name, "value": value} for name, value in extra.items()]
    container = {
        "name": names.CONTAINER,
        **_image(spec.trainer, settings),
        "command": ["python", "-m", "qwenft_trainer"],
        "args": _arguments(spec.trainer),
        "env": variables,
        **_secrets(spec.trainer),
        "resources": resources(spec, plan, placement),
        "volumeMounts": mounts(spec),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    return {
        "restartPolicy": "Never",
        "subdomain": names.service(owner.name),
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes(spec, plan, owner.name, settings=settings, on_cpu=placement.on_cpu),
        **_priority(spec),
        **placement.to_pod(owner.uid),
    }


def _priority(spec: FinetuneSpec) -> dict[str, str]:
    name = spec.run_policy.priority_class_name
    return {"priorityClassName": name} if name else {}


def _image(trainer: Trainer, settings: Settings) -> dict[str, str]:
    policy = trainer.image_pull_policy or settings.image_pull_policy
    image = {"image": trainer.image or settings.trainer_image}
    return image | {"imagePullPolicy": policy} if policy else image


def _secrets(trainer: Trainer) -> dict[str, Any]:
    """Name the Secrets; what ``env`` sets wins over them."""
    named = [{"secretRef": {"name": item.secret_ref.name}} for item in trainer.env_from]
    return {"envFrom": named} if named else {}


def _arguments(trainer: Trainer) -> list[str]:
    script = [] if trainer.script is None else [f"{names.SCRIPT_DIR}/{trainer.script.key}"]
    return [*script, *trainer.args]
