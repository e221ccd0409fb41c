"""What happens to a run when something of it dies: it goes on, and trains what it would have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo import install, platforms
from demo.platforms import Embedded
from endtoend.bench import Bench, in_phase
from endtoend.runs import Body, tiny
from qwenft_cli.watch import history, look

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_SECONDS = 600
EPOCHS = 5
STEPS = 8 * EPOCHS  # 8 steps an epoch of the tiny dataset: long enough to be met in training
_RANK = (
    "import os,signal\n"
    "for pid in os.listdir('/proc'):\n"
    "    if not pid.isdigit() or int(pid) == os.getpid():\n"
    "        continue\n"
    "    if b'qwenft_trainer.boot' in open(f'/proc/{pid}/cmdline', 'rb').read():\n"
    "        os.kill(int(pid), signal.SIGKILL)\n"
)


def recovering(name: str, **changes: Any) -> Body:
    """Return a run that saves every second step."""
    # A small rate: another plan adds in another order, and at a rate of 1e-3 that had grown to a
    # difference of 8e-4 after 40 steps.
    training = {
        "epochs": EPOCHS, "maxSteps": STEPS, "scheduler": "constant", "learningRate": 1e-5,
    }  # fmt: skip
    return tiny(name, training=training, checkpoint={"everySteps": 2}, **changes)


def saved(body: Body) -> bool:
    """Whether the run's first attempt has something to go on from."""
    status = body.get("status") or {}
    step = (status.get("checkpoint") or {}).get("step", 0)
    return 2 <= step < STEPS and status["phase"] == "Training"


def pod_of(bench: Bench, name: str, index: int, attempt: int = 1) -> str:
    labels = (
        f"qwenft.dev/run={name},qwenft.dev/attempt={attempt},"
        f"batch.kubernetes.io/job-completion-index={index}"
    )
    return bench.kubectl("get", "pod", "-l", labels, "-o", "jsonpath={.items[0].metadata.name}")


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> float:
    """Return the final loss of a run to which nothing happens."""
    name = bench.submit(recovering("undisturbed"))
    return float(bench.result(name, _SECONDS)["result"]["finalLoss"])


def start(bench: Bench, body: Body) -> str:
    name = bench.submit(body)
    bench.wait(name, saved, _SECONDS)
    return name


def finish(bench: Bench, name: str, expected: float) -> Body:
    status = bench.result(name, _SECONDS)
    assert status["result"]["steps"] == STEPS
    assert status["result"]["finalLoss"] == pytest.approx(expected, abs=1e-5)
    # The same loss would come of training from the start again.
    steps = [one.step for one in history(bench.access, look(bench.access, name))]
    assert min(steps) >= 2 or status["attempt"] == 1
    return status


def test_a_killed_rank_costs_a_restart_and_nothing_else(bench: Bench, undisturbed: float) -> None:
    name = start(bench, recovering("kill-rank"))
    victim = pod_of(bench, name, 1)
    bench.kubectl("exec", victim, "--", "python", "-c", _RANK)
    status = finish(bench, name, undisturbed)
    assert (status["attempt"], status["restarts"], status["retries"]) == (2, 1, 1)
    failure = status["failures"][0]
    assert (failure["rank"], failure["pod"]) == (1, victim)
    assert any(kind == "Warning" for kind, _, _ in bench.events(name))


def test_a_deleted_pod_is_a_preemption_and_does_not_count(bench: Bench, undisturbed: float) -> None:
    name = start(bench, recovering("delete-pod", runPolicy={"backoffLimit": 0}))
    bench.kubectl("delete", "pod", pod_of(bench, name, 1), "--wait=false")
    status = finish(bench, name, undisturbed)
    assert (status["attempt"], status["restarts"], status["retries"]) == (2, 1, 0)


def test_a_killed_operator_changes_nothing(bench: Bench, undisturbed: float) -> None:
    name = start(bench, recovering("kill-operator"))
    words = ["delete", "pod", "-l", "app.kubernetes.io/name=qwenft-operator", "--grace-period=0"]
    platforms.kubectl(bench.platform, "-n", install.SYSTEM, *words, "--force", "--wait=false")
    status = finish(bench, name, undisturbed)
    assert status["attempt"] == 1
    assert "failures" not in status


@pytest.fixture
def killed_node(bench: Bench) -> Iterator[Callable[[str], None]]:
    """Return how to kill a node; it is started again after the test."""
    if not isinstance(bench.platform, Embedded):
        pytest.skip("left out: nodes of a given cluster are not killed")
    cluster = bench.platform.cluster
    stopped: list[int] = []

    def kill(node: str) -> None:
        index = int(node.removeprefix("node-"))
        cluster.stop_node(index)
        stopped.append(index)

    yield kill
    for index in stopped:
        cluster.start_node(index)
        words = ["wait", "--for=condition=Ready", f"node/node-{index}", "--timeout=120s"]
        bench.kubectl(*words)


def test_a_killed_node_is_replaced_by_a_plan_for_what_is_left(
    bench: Bench, undisturbed: float, killed_node: Callable[[str], None]
) -> None:
    name = start(bench, recovering("kill-node", resources={"nodes": {"min": 1, "max": 2}}))
    operator = platforms.kubectl(
        bench.platform, "-n", install.SYSTEM, "get", "pod",
        "-l", "app.kubernetes.io/name=qwenft-operator", "-o", "jsonpath={.items[0].spec.nodeName}",
    )  # fmt: skip
    victim = next(node for node in ("node-1", "node-2") if node != operator)
    killed_node(victim)
    body = bench.wait(name, in_phase("Restarting"), 90)
    failure = body["status"]["failure"]
    assert (failure["reason"], failure["node"]) == ("NodeLost", victim)
    status = finish(bench, name, undisturbed)
    assert status["attempt"] == 2
    assert status["plan"]["nodes"] == 1
