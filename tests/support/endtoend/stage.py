"""Bringing up what end-to-end tests and benches stand on: cluster, operator, data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demo import install as steps
from demo import platforms, training
from demo.platforms import Images, Platform
from embedded import layout
from endtoend.bench import Bench
from endtoend.files import DATASETS

__all__ = ["NAMESPACE", "install", "set_up"]

NAMESPACE = "qwenft-e2e"
_VALUES = {"scheduling": {"growthSeconds": 2, "growthAgeSeconds": 10}}
"""A run that could grow asks often and soon: by default a minute passes before each."""


def set_up(target: Platform | None = None) -> Bench:
    """Return the bench on a cluster with the operator, the sample data and small datasets.

    Without a ``target`` it is the one that the environment names, or our own.
    """
    target = target or platforms.choose()
    target.up()
    images = target.images()
    log = layout.from_environment().logs / "e2e.log"
    log.unlink(missing_ok=True)
    install(target, images, log)
    steps.make_namespace(target, NAMESPACE)
    steps.prepare_data(target, images, NAMESPACE)
    made = Bench(
        platform=target,
        images=images,
        namespace=NAMESPACE,
        access=training.access(target, NAMESPACE),
    )
    made.kubectl("delete", "qft", "--all", "--wait=false")
    made.pod("datasets", ["python", "/script/train.py"], DATASETS)
    return made


def install(target: Platform, images: Images, log: Path, **values: Any) -> None:
    """Install the operator, or give it other Helm values than the tests' usual ones."""
    steps.helm_install(target, images, log, _VALUES | values)
