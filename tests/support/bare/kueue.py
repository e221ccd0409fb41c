"""The real Kueue before the plane: its definitions, webhooks and controller, from its own module.

What differs from an installation: the webhooks are reached by address, for the controller runs
beside the apiserver and not in a pod, and only those of Jobs and of Kueue's own kinds are there.
Wants root, for a mount namespace.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import yaml

from bare.plane import Plane
from embedded import binaries, versions
from embedded.stages import direct_environment, run, wait_until
from serving import make_certificates

__all__ = ["API", "start_kueue"]

API = "kueue.x-k8s.io/v1beta2"
_GROUPS = {"batch", "kueue.x-k8s.io"}
_MODULE = "sigs.k8s.io/kueue"
_IN_ITS_OWN_ETC = """
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
mkdir -p /etc/kueue/metrics
ln -s "$1" /etc/kueue/metrics/certs
shift
exec "$@"
"""
"""Kueue reads the certificate of its metrics from a fixed place below /etc: it gets an /etc of its
own, in a mount namespace that ends with it. ``$1`` is the directory with the certificate."""


def start_kueue(plane: Plane) -> None:
    """Install Kueue and start its controller; return when it serves."""
    product = binaries.kueue(versions.load())
    binaries.build(plane.layout, product)
    module = _module(product)
    bases = module / "config" / "components" / "crd" / "bases"
    plane.kubectl("apply", "--server-side", "-f", str(bases))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    folder = plane.folder / "kueue"
    folder.mkdir()
    certificates = make_certificates(folder)
    config = plane.folder / "kueue.json"
    config.write_text(json.dumps(_configuration(plane, certificates)), encoding="utf-8")
    plane.start(
        "kueue", "unshare", "--mount", "--", "sh", "-euc", _IN_ITS_OWN_ETC, "kueue", certificates,
        binaries.home(plane.layout, product) / "kueue", f"--config={config}",
        f"--kubeconfig={plane.kubeconfig('admin')}", "--feature-gates=VisibilityOnDemand=false",
    )  # fmt: skip
    log = plane.folder / "kueue.log"
    wait_until(plane.guest_is_ready, seconds=120, what="Kueue's readiness", log=log)
    for body in _webhooks(plane, module, certificates / "ca.crt"):
        plane.kubectl("create", "-f", "-", stdin=body)


def _module(product: binaries.Product) -> Path:
    """Return where the module's sources lie; they are there since the build, or fetched now."""
    environment = direct_environment() | {"GOWORK": "off"}
    run(["go", "mod", "download", _MODULE], environment=environment, cwd=product.source)
    command = ["go", "list", "-m", "-f", "{{.Dir}}", _MODULE]
    return Path(run(command, environment=environment, cwd=product.source).strip())


def _configuration(plane: Plane, certificates: Path) -> dict[str, Any]:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{plane.ports['guest']}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {
            "host": "127.0.0.1", "port": plane.ports["webhook"], "certDir": str(certificates),
        },
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "integrations": {"frameworks": ["batch/job"]},
    }  # fmt: skip


def _webhooks(plane: Plane, module: Path, authority: Path) -> list[dict[str, Any]]:
    """Return the module's webhook configurations, pointed at the controller beside the plane."""
    file = module / "config" / "components" / "webhook" / "manifests.yaml"
    bundle = base64.b64encode(authority.read_bytes()).decode()
    bodies = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    for body in bodies:
        kept = [hook for hook in body["webhooks"] if _is_ours(hook)]
        for hook in kept:
            path = hook["clientConfig"]["service"]["path"]
            url = f"https://127.0.0.1:{plane.ports['webhook']}{path}"
            hook["clientConfig"] = {"url": url, "caBundle": bundle}
        body["webhooks"] = kept
    return bodies


def _is_ours(hook: dict[str, Any]) -> bool:
    return all(set(rule["apiGroups"]) <= _GROUPS for rule in hook["rules"])
