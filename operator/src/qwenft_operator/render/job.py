"""One attempt: an Indexed Job whose completion index is the node rank.

The Job controller makes, counts and tears down the gang; whether there is another attempt is the
operator's to decide, hence ``backoffLimit: 0`` and a pod that is never restarted in place.
"""

from __future__ import annotations

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
) -> dict[str, Any]:
    """Return the attempt's Job.

    ``spec.suspend`` is left out on purpose: it belongs to a queueing system, where there is one.
    """
    meta = metadata(owner, names.job(owner.name, attempt), attempt=str(attempt), plan=plan.digest)
    pod: dict[str, Any] = {"labels": dict(meta["labels"])}
    if settings.progress_url:
        pod["annotations"] = {names.ANNOTATION_CA: settings.progress_ca}
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
            "template": {
                "metadata": pod,
                "spec": _pod(spec, plan, owner, attempt, settings, placement),
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
) -> dict[str, Any]:
    container = {
        "name": names.CONTAINER,
        **_image(spec.trainer, settings),
        "command": ["python", "-m", "qwenft_trainer"],
        "args": _arguments(spec.trainer),
        "env": environment(spec, plan, owner, attempt, settings=settings, on_cpu=placement.on_cpu),
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
        **placement.to_pod(owner.uid),
    }


def _image(trainer: Trainer, settings: Settings) -> dict[str, str]:
    policy = trainer.image_pull_policy or settings.image_pull_policy
    image = {"image": trainer.image or settings.trainer_image}
    return image | {"imagePullPolicy": policy} if policy else image


def _arguments(trainer: Trainer) -> list[str]:
    script = [] if trainer.script is None else [f"{names.SCRIPT_DIR}/{trainer.script.key}"]
    return [*script, *trainer.args]
