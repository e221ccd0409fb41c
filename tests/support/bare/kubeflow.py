"""Kubeflow's Training Operator v1.8.1 before the plane, from its own module, with its defaults.

What differs from an installation: it runs beside the apiserver and not in a pod, and the apiserver
does not ask its webhook about the jobs, which saves it a call a job.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from bare.plane import Plane
from embedded import binaries, processes, versions
from embedded.stages import StageError, direct_environment, run, wait_until
from serving import make_certificates

__all__ = ["JOBS", "LABEL", "job", "start_training_operator"]

JOBS = "/apis/kubeflow.org/v1/namespaces/{}/pytorchjobs"
LABEL = "training.kubeflow.org/job-name"
_MODULE = "github.com/kubeflow/training-operator"
_HOOK = "validator.training-operator.kubeflow.org"
_SECRET = "training-operator-webhook-cert"  # noqa: S105 - a name
_WITH_CERTIFICATES = """
mkdir -p /tmp/k8s-webhook-server/serving-certs
mount --bind "$1" /tmp/k8s-webhook-server/serving-certs
shift
exec "$@"
"""
"""It reads its certificate from a fixed place: bound there in a mount namespace of its own."""


def start_training_operator(plane: Plane) -> processes.Process:
    """Install the definition of PyTorchJobs and start the controller; return when it serves."""
    product = binaries.training_operator(versions.load())
    binaries.build(plane.layout, product)
    crds = _module(product) / "manifests" / "base" / "crds"
    plane.kubectl("apply", "--server-side", "-f", str(crds / "kubeflow.org_pytorchjobs.yaml"))
    wait_until(lambda: _is_served(plane), seconds=60, what="the definition of PyTorchJobs")
    folder = plane.folder / "kubeflow"
    folder.mkdir()
    certificates = make_certificates(folder)
    for body in _surroundings(plane, certificates / "ca.crt"):
        plane.kubectl("create", "-f", "-", stdin=body)
    started = plane.start(
        "kubeflow", "unshare", "--mount", "--", "sh", "-euc", _WITH_CERTIFICATES, "kubeflow",
        certificates, binaries.home(plane.layout, product) / product.programs[0],
        f"--kubeconfig={plane.kubeconfig('admin')}", "--enable-scheme=pytorchjob",
        "--metrics-bind-address=0", f"--webhook-server-port={plane.ports['webhook']}",
        f"--health-probe-bind-address=127.0.0.1:{plane.ports['guest']}",
    )  # fmt: skip
    log = plane.folder / "kubeflow.log"
    wait_until(plane.guest_is_ready, seconds=120, what="the Training Operator", log=log)
    return started


def job(name: str, namespace: str, pods: int) -> dict[str, Any]:
    """Return a PyTorchJob of one master and ``pods - 1`` workers."""
    container = {
        "name": "pytorch", "image": "trainer:1",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
    }  # fmt: skip
    template = {"spec": {"containers": [container]}}
    replica = {"restartPolicy": "OnFailure", "template": template}
    kinds = {"Master": 1, "Worker": pods - 1}
    replicas = {kind: {**replica, "replicas": count} for kind, count in kinds.items()}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"pytorchReplicaSpecs": replicas},
    }


def _module(product: binaries.Product) -> Path:
    """Return where the module's sources lie; they are there since the build, or fetched now."""
    environment = direct_environment() | {"GOWORK": "off"}
    run(["go", "mod", "download", _MODULE], environment=environment, cwd=product.source)
    command = ["go", "list", "-m", "-f", "{{.Dir}}", _MODULE]
    return Path(run(command, environment=environment, cwd=product.source).strip())


def _surroundings(plane: Plane, authority: Path) -> list[dict[str, Any]]:
    """Return the objects that it fills in before it begins; the webhook matches no job."""
    hook = {
        "name": "validator.pytorchjob.training-operator.kubeflow.org",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "objectSelector": {"matchLabels": {"of-no-job": "at-all"}},
        "clientConfig": {
            "url": f"https://127.0.0.1:{plane.ports['webhook']}/validate-kubeflow-org-v1-pytorchjob",
            "caBundle": base64.b64encode(authority.read_bytes()).decode(),
        },
        "rules": [{"apiGroups": ["kubeflow.org"], "apiVersions": ["v1"],
                   "operations": ["CREATE", "UPDATE"], "resources": ["pytorchjobs"]}],
    }  # fmt: skip
    namespace = {"name": "kubeflow"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": namespace},
        {"apiVersion": "v1", "kind": "Secret",
         "metadata": {"name": _SECRET, "namespace": "kubeflow"}},
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
         "metadata": {"name": _HOOK}, "webhooks": [hook]},
    ]  # fmt: skip


def _is_served(plane: Plane) -> bool:
    try:
        plane.kubectl("get", "pytorchjobs", "--all-namespaces")
    except StageError:
        return False
    return True
