"""Bringing up what end-to-end tests and benches stand on: cluster, operator, data."""

from __future__ import annotations

from demo import install, platforms, training
from embedded import layout
from endtoend.bench import Bench
from endtoend.files import DATASETS

__all__ = ["NAMESPACE", "set_up"]

NAMESPACE = "qwenft-e2e"
_VALUES = {"scheduling": {"growthSeconds": 2, "growthAgeSeconds": 10}}
"""A run that could grow asks often and soon: by default a minute passes before each."""


def set_up() -> Bench:
    """Return the bench on a cluster with the operator, the sample data and small datasets."""
    target = platforms.choose()
    target.up()
    images = target.images()
    log = layout.from_environment().logs / "e2e.log"
    log.unlink(missing_ok=True)
    install.helm_install(target, images, log, _VALUES)
    install.make_namespace(target, NAMESPACE)
    install.prepare_data(target, images, NAMESPACE)
    made = Bench(
        platform=target,
        images=images,
        namespace=NAMESPACE,
        access=training.access(target, NAMESPACE),
    )
    made.kubectl("delete", "qft", "--all", "--wait=false")
    made.pod("datasets", ["python", "/script/train.py"], DATASETS)
    return made
