"""Volumes of a trainer pod and where they are mounted."""

from __future__ import annotations

from typing import Any

from qwenft_operator import names
from qwenft_operator.run import Settings
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec

__all__ = ["mounts", "volumes"]

_TOKEN_SECONDS = 3600
_READ_ONLY = 0o440
_MIB = 2**20
_SHM_PER_PROCESS = {False: 2048 * _MIB, True: 512 * _MIB}
"""Bytes by whether the devices are CPU processes: rings of NCCL, batches of loader processes."""
_SHM_LEAST = 1024 * _MIB

Entries = list[dict[str, Any]]


def _claims(spec: FinetuneSpec) -> dict[str, str]:
    """Return mount point → claim; the mount point is the first element of the path."""
    found: dict[str, str] = {}
    for part in (spec.model, spec.dataset, spec.output):
        if part.volume is not None and part.path:
            found["/" + part.path.split("/")[1]] = part.volume.claim_name
    return found


def _claim_volumes(spec: FinetuneSpec) -> dict[str, str]:
    """Return claim → volume name, in the order of the claims."""
    claims = sorted(set(_claims(spec).values()))
    return {claim: f"data-{index}" for index, claim in enumerate(claims)}


def mounts(spec: FinetuneSpec) -> Entries:
    """Return the container's ``volumeMounts``."""
    named = _claim_volumes(spec)
    entries: Entries = [
        {"name": "config", "mountPath": names.CONFIG_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own emptyDir
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    entries.extend(
        {"name": named[claim], "mountPath": point} for point, claim in sorted(_claims(spec).items())
    )
    return entries


def volumes(
    spec: FinetuneSpec, plan: Plan, run: str, *, settings: Settings, on_cpu: bool
) -> Entries:
    """Return the pod's ``volumes``; ``run`` is the run's name."""
    size = _shared_memory(spec, plan, on_cpu=on_cpu)
    entries: Entries = [
        {"name": "config", "projected": _config(spec, plan, run, settings)},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}},
    ]
    entries.extend(
        {"name": name, "persistentVolumeClaim": {"claimName": claim}}
        for claim, name in _claim_volumes(spec).items()
    )
    return entries


def _shared_memory(spec: FinetuneSpec, plan: Plan, *, on_cpu: bool) -> str:
    """Return the size of /dev/shm; what lies there counts against the pod's memory limit."""
    size = max(_SHM_LEAST, _SHM_PER_PROCESS[on_cpu] * plan.processes_per_node)
    if spec.resources.memory_per_node is not None:
        size = min(size, max(64 * _MIB, spec.resources.memory_per_node // 2))
    mebibytes = size // _MIB
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"


def _config(spec: FinetuneSpec, plan: Plan, run: str, settings: Settings) -> dict[str, Any]:
    """One directory holds the plan, the script, the token and the authority to trust."""
    sources: Entries = [{"configMap": {"name": names.config_map(run, plan.digest)}}]
    if spec.trainer.script is not None:
        script = spec.trainer.script
        item = {"key": script.key, "path": f"script/{script.key}"}
        sources.append({"configMap": {"name": script.config_map, "items": [item]}})
    if settings.progress_url:
        sources.extend([_token(), _authority()])
    return {"defaultMode": _READ_ONLY, "sources": sources}


def _token() -> dict[str, Any]:
    token = {"path": "token", "audience": names.AUDIENCE, "expirationSeconds": _TOKEN_SECONDS}
    return {"serviceAccountToken": token}


def _authority() -> dict[str, Any]:
    field = {"fieldPath": f"metadata.annotations['{names.ANNOTATION_CA}']"}
    return {"downwardAPI": {"items": [{"path": "ca.crt", "fieldRef": field}]}}
