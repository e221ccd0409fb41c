"""Putting the operator into a cluster with Helm, and the sample data into a volume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from demo.platforms import ROOT, Images, Platform, kubectl
from embedded.stages import StageError, direct_environment, run, stage, wait_until

__all__ = ["RELEASE", "SYSTEM", "helm_install", "make_namespace", "prepare_data", "sample"]

SYSTEM = "qwenft-system"
RELEASE = "qwenft"
SAMPLES = ROOT / "manifests" / "samples"
_CHART = ROOT / "charts" / "qwenft"
_JOB = "prepare-stdlib"
_DATA_SECONDS = 600
_READY_SECONDS = 240
_BUILD = "qwenft.dev/build"


def sample(name: str) -> Any:
    """Return the document of a sample manifest."""
    return yaml.safe_load((SAMPLES / name).read_text(encoding="utf-8"))


def helm_install(
    platform: Platform, images: Images, log: Path, more: Mapping[str, Any] | None = None
) -> None:
    """Install or upgrade the operator, with ``more`` values, and wait until it is ready.

    A release that an interrupted install left pending is removed first: Helm refuses to go on.
    """
    with stage("operator (Helm chart charts/qwenft)", remedy="look at the pods of qwenft-system"):
        _clear_pending(platform, log)
        values = {
            "image": _reference(images.operator),
            "trainer": {"image": images.trainer},
            "podAnnotations": {_BUILD: images.operator_build},
            **(more or {}),
        }
        _helm(
            platform, "upgrade", "--install", RELEASE, str(_CHART), "--create-namespace",
            "--take-ownership", "--values", "-", "--wait", "--timeout", f"{_READY_SECONDS}s",
            log=log, stdin=json.dumps(values),
        )  # fmt: skip


def make_namespace(platform: Platform, name: str) -> None:
    """Make a namespace that admits restricted pods only."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    kubectl(platform, "apply", "--server-side", "-f", "-", stdin=json.dumps(body))


def prepare_data(platform: Platform, images: Images, namespace: str) -> None:
    """Run the sample data's Job, unless the same image has made the data before."""
    with stage("sample data", remedy=f"kubectl logs -n {namespace} job/{_JOB}"):
        kubectl(platform, "apply", "-n", namespace, "-f", str(SAMPLES / "data.yaml"))
        if _made_by(platform, namespace) != images.trainer_build:
            _start_job(platform, images, namespace)
        wait_until(
            lambda: _is_complete(platform, namespace),
            seconds=_DATA_SECONDS,
            what="the sample data",
            every=0.5,
        )


def _reference(image: str) -> dict[str, str]:
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}


def _helm(platform: Platform, *words: str, log: Path, stdin: str | None = None) -> None:
    command = [platform.tool("helm"), *words, "--namespace", SYSTEM]
    command += ["--kubeconfig", str(platform.kubeconfig)]
    run(command, log=log, stdin=stdin, environment=direct_environment())


def _clear_pending(platform: Platform, log: Path) -> None:
    words = ["list", "--pending", "--short", "--namespace", SYSTEM]
    command = [platform.tool("helm"), *words, "--kubeconfig", str(platform.kubeconfig)]
    if RELEASE in run(command, environment=direct_environment()).split():
        _helm(platform, "uninstall", RELEASE, "--wait", log=log)


def _job(platform: Platform, namespace: str) -> Mapping[str, Any]:
    words = ("get", "job", _JOB, "-n", namespace, "--ignore-not-found", "-o", "json")
    text = kubectl(platform, *words)
    return json.loads(text) if text.strip() else {}


def _made_by(platform: Platform, namespace: str) -> str:
    """Return the build that the Job ran or runs with; empty without a Job or after a failed one."""
    job = _job(platform, namespace)
    if not job or _condition(job, "Failed"):
        return ""
    return str((job["metadata"].get("annotations") or {}).get(_BUILD, ""))


def _start_job(platform: Platform, images: Images, namespace: str) -> None:
    words = ("delete", "job", _JOB, "-n", namespace, "--ignore-not-found", "--cascade=foreground")
    kubectl(platform, *words, "--timeout=60s")
    job = sample("prepare.yaml")
    job["metadata"]["annotations"] = {_BUILD: images.trainer_build}
    job["spec"].pop("ttlSecondsAfterFinished")
    job["spec"]["template"]["spec"]["containers"][0]["image"] = images.trainer
    kubectl(platform, "apply", "-n", namespace, "-f", "-", stdin=json.dumps(job))


def _is_complete(platform: Platform, namespace: str) -> bool:
    job = _job(platform, namespace)
    if _condition(job, "Failed"):
        logs = kubectl(platform, "logs", f"job/{_JOB}", "-n", namespace, "--tail=20")
        raise StageError(f"the Job {_JOB} failed:\n{logs}")
    return _condition(job, "Complete")


def _condition(job: Mapping[str, Any], kind: str) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)
