"""Environment of the trainer container: the torchrun contract and the project's own variables."""

from __future__ import annotations

from qwenft_operator import names
from qwenft_operator.render.placement import Placement
from qwenft_operator.run import Owner, Settings
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec

__all__ = ["CA_FILE", "TOKEN_FILE", "environment"]

TOKEN_FILE = f"{names.CONFIG_DIR}/token"
CA_FILE = f"{names.CONFIG_DIR}/ca.crt"

_INTERFACES = {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0"}
"""A pod's own interface, as container runtimes name it: NCCL would take one that begins with ``ib``
first, and gloo the one that the host name stands for."""

Entry = dict[str, object]


def environment(
    spec: FinetuneSpec,
    plan: Plan,
    owner: Owner,
    attempt: int,
    *,
    settings: Settings,
    placement: Placement,
) -> list[Entry]:
    """Return the container's ``env``.

    The user's own variables go before what is chosen for the network, and give way to the contract.
    """
    own = {item.name: item.value for item in spec.trainer.env}
    fixed = (
        _identity(owner, attempt)
        | _torchrun(plan, owner, attempt, spec.trainer.rendezvous)
        | _progress(owner, settings)
        | {"QWENFT_STALL_SECONDS": f"{settings.rank_patience:g}"}
    )
    alone = placement.on_cpu or plan.nodes == 1
    network = {} if alone else _INTERFACES | dict(placement.wiring.env)
    values = _defaults(spec, on_cpu=placement.on_cpu) | network | own | fixed
    entries: list[Entry] = [{"name": name, "value": value} for name, value in values.items()]
    return [*entries, _node_rank()]


def _defaults(spec: FinetuneSpec, *, on_cpu: bool) -> dict[str, str]:
    """Return what a user may overrule; caches lie in /tmp, the root file system is read-only."""
    values = {
        "PYTHONUNBUFFERED": "1",
        "HOME": "/tmp",  # noqa: S108 - the pod's own emptyDir
        "HF_HOME": "/tmp/huggingface",  # noqa: S108
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor",  # noqa: S108
        "TRITON_CACHE_DIR": "/tmp/triton",  # noqa: S108
    }
    if on_cpu:
        values["OMP_NUM_THREADS"] = str(spec.resources.cpus_per_process)
    return values


def _identity(owner: Owner, attempt: int) -> dict[str, str]:
    return {
        "QWENFT_PLAN": f"{names.CONFIG_DIR}/plan.json",
        "QWENFT_RUN": f"{names.CONFIG_DIR}/run.json",
        "QWENFT_NAME": owner.name,
        "QWENFT_NAMESPACE": owner.namespace,
        "QWENFT_UID": owner.uid,
        "QWENFT_ATTEMPT": str(attempt),
    }


def _torchrun(plan: Plan, owner: Owner, attempt: int, rendezvous: str) -> dict[str, str]:
    master = f"{names.job(owner.name, attempt)}-0.{names.service(owner.name)}"
    values = {
        "PET_NNODES": str(plan.nodes),
        "PET_NPROC_PER_NODE": str(plan.processes_per_node),
        "PET_MAX_RESTARTS": "0",
        "PET_RDZV_BACKEND": rendezvous,
        "PET_RDZV_ID": f"{owner.uid}-{attempt}",
    }
    if rendezvous == "static":
        return values | {"PET_MASTER_ADDR": master, "PET_MASTER_PORT": str(names.MASTER_PORT)}
    return values | {"PET_RDZV_ENDPOINT": f"{master}:{names.MASTER_PORT}"}


def _progress(owner: Owner, settings: Settings) -> dict[str, str]:
    if not settings.progress_url:
        return {}
    path = names.progress_path(owner.namespace, owner.name)
    return {
        "KUBEFLOW_TRAINER_SERVER_URL": settings.progress_url + path,
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": CA_FILE,
        "KUBEFLOW_TRAINER_SERVER_TOKEN": TOKEN_FILE,
    }


def _node_rank() -> Entry:
    field = {"fieldRef": {"fieldPath": f"metadata.labels['{names.LABEL_INDEX}']"}}
    return {"name": "PET_NODE_RANK", "valueFrom": field}
