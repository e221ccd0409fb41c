"""Runs that something happens to: their bodies, what to wait for, and whom to hit."""

from __future__ import annotations

from typing import Any

import pytest

from demo import install, platforms
from endtoend.bench import Bench
from endtoend.runs import Body, tiny
from qwenft_cli.watch import history, look

__all__ = [
    "EPOCHS", "KILL_RANKS", "SECONDS", "STEPS", "finish", "losses_by_step", "node_without_operator",
    "pod_of", "recovering", "saved", "start",
]  # fmt: skip

SECONDS = 600
EPOCHS = 5
STEPS = 8 * EPOCHS  # 8 steps an epoch of the tiny dataset: long enough to be met in training
KILL_RANKS = (
    "import os,signal\n"
    "for pid in os.listdir('/proc'):\n"
    "    if not pid.isdigit() or int(pid) == os.getpid():\n"
    "        continue\n"
    "    if open(f'/proc/{pid}/comm').read().startswith('qwenft-rank'):\n"
    "        os.kill(int(pid), signal.SIGKILL)\n"
)
"""Run in a pod, ends its ranks as the kernel does; torch's agent lives on."""


def recovering(name: str, *, epochs: int = EPOCHS, **changes: Any) -> Body:
    """Return a run that saves every second step."""
    # A small rate: another plan adds in another order, and at a rate of 1e-3 that had grown to a
    # difference of 8e-4 after 40 steps.
    training = {
        "epochs": epochs, "maxSteps": 8 * epochs, "scheduler": "constant", "learningRate": 1e-5,
    }  # fmt: skip
    training |= changes.pop("training", {})
    return tiny(name, training=training, checkpoint={"everySteps": 2}, **changes)


def saved(body: Body) -> bool:
    """Whether the run trains, not yet at its end, and has something to go on from."""
    status = body.get("status") or {}
    step = (status.get("checkpoint") or {}).get("step", 0)
    total = (status.get("progress") or {}).get("totalSteps", 0)
    return 2 <= step < total and status["phase"] == "Training"


def pod_of(bench: Bench, name: str, index: int, attempt: int = 1) -> str:
    """Return the name of the pod with this completion index."""
    labels = (
        f"qwenft.dev/run={name},qwenft.dev/attempt={attempt},"
        f"batch.kubernetes.io/job-completion-index={index}"
    )
    return bench.kubectl("get", "pod", "-l", labels, "-o", "jsonpath={.items[0].metadata.name}")


def node_without_operator(bench: Bench) -> str:
    """Return the node that can be lost without losing the operator."""
    operator = platforms.kubectl(
        bench.platform, "-n", install.SYSTEM, "get", "pod",
        "-l", "app.kubernetes.io/name=qwenft-operator", "-o", "jsonpath={.items[0].spec.nodeName}",
    )  # fmt: skip
    return next(node for node in ("node-1", "node-2") if node != operator)


def start(bench: Bench, body: Body) -> str:
    """Submit a run and return its name once it has saved."""
    name = bench.submit(body)
    bench.wait(name, saved, SECONDS)
    return name


def losses_by_step(bench: Bench, name: str) -> dict[int, float]:
    """Return the losses in the log of the newest attempt's first pod."""
    reports = history(bench.access, look(bench.access, name))
    return {one.step: one.loss for one in reports if one.loss is not None}


def finish(bench: Bench, name: str, expected: float) -> Body:
    """Return the status of a run that ends well, with the loss that it would have had anyway."""
    status = bench.result(name, SECONDS)
    assert status["result"]["steps"] == STEPS
    assert status["result"]["finalLoss"] == pytest.approx(expected, abs=1e-5)
    # The same loss would come of training from the start again.
    assert min(losses_by_step(bench, name)) >= 2 or status["attempt"] == 1
    return status
