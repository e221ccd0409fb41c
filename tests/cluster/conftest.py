"""The cluster of the end-to-end tests: made once a session, left running for the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo import install, platforms, training
from embedded import layout
from endtoend.bench import Bench
from endtoend.files import DATASETS

NAMESPACE = "qwenft-e2e"


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """Bring up the cluster with the operator, the sample data and a few small datasets."""
    target = platforms.choose()
    target.up()
    images = target.images()
    log = layout.from_environment().logs / "e2e.log"
    log.unlink(missing_ok=True)
    install.helm_install(target, images, log)
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
    yield made
    made.kubectl("delete", "qft", "--all", "--wait=false")
