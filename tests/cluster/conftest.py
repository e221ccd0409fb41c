"""The cluster of the end-to-end tests: made once a session, left running for the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.platforms import Embedded
from endtoend.bench import Bench
from endtoend.nodes import Nodes
from endtoend.recovering import SECONDS, recovering
from endtoend.stage import set_up


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """Bring up the cluster with the operator, the sample data and a few small datasets."""
    made = set_up()
    yield made
    made.kubectl("delete", "qft", "--all", "--wait=false")


@pytest.fixture(scope="session")
def undisturbed(bench: Bench) -> float:
    """Return the final loss of a run to which nothing happens."""
    name = bench.submit(recovering("undisturbed"))
    return float(bench.result(name, SECONDS)["result"]["finalLoss"])


@pytest.fixture
def nodes(bench: Bench) -> Iterator[Nodes]:
    """Return how to kill a node; it is started again after the test."""
    if not isinstance(bench.platform, Embedded):
        pytest.skip("left out: nodes of a given cluster are not killed")
    made = Nodes(bench)
    yield made
    made.revive()
    made.restore()
