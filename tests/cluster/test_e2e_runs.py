"""Runs that end well, each under another plan, on pods of two nodes."""

from __future__ import annotations

import re

import pytest

from demo import install, platforms
from embedded.stages import direct_environment, run
from endtoend import files
from endtoend.bench import Bench, in_phase
from endtoend.runs import tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_SECONDS = 600
_SCRIPT = install.SAMPLES / "train_qwen.py"
_WORDS = [
    "--model=/data/model",
    "--dataset=/data/tiny.pt",
    "--batch-size=8",
    "--learning-rate=1e-3",
]


@pytest.fixture(scope="module")
def reference(bench: Bench) -> list[float]:
    """Run two steps in one process, the losses that every plan must have."""
    name = bench.submit(
        tiny(
            "one-process",
            resources={"nodes": {"min": 1, "max": 1}},
            output={"path": "/data/e2e/one"},
        )
    )
    bench.result(name, _SECONDS)
    return bench.losses(name)


def test_the_demo_s_run_learns_on_two_nodes_and_leaves_a_model(bench: Bench) -> None:
    name = bench.submit(install.sample("qwen-stdlib.yaml"))
    status = bench.result(name, 1200)
    nodes = {pod["node"] for pod in status["workers"]["pods"]}
    assert len(nodes) == 2
    result = status["result"]
    assert result["validationLossAfter"] <= 0.7 * result["validationLossBefore"]
    assert status["plan"]["reason"]
    assert status["progress"]["step"] == status["progress"]["totalSteps"]
    assert status["measured"]["tokensPerSecond"] > 0
    command = ["python", "/script/train.py", str(result["outputPath"])]
    log = bench.pod("load-model", command, files.LOADING)
    assert "missing 0 unexpected 0" in log
    assert "generated 8" in log


def test_the_plan_is_explained_where_people_look(bench: Bench) -> None:
    text = bench.kubectl("describe", "qft", "qwen-stdlib")
    assert "Fastest of" in text
    assert "Alternatives" in text
    assert re.search(r"Normal\s+Succeeded", text)
    columns = bench.kubectl("get", "qft", "qwen-stdlib").splitlines()[0].split()
    assert columns[:4] == ["NAME", "PHASE", "PLAN", "NODES"]


@pytest.mark.parametrize("kind", ["pipeline", "tensor"])
def test_a_fixed_degree_trains_the_same_model(
    bench: Bench, reference: list[float], kind: str
) -> None:
    body = install.sample(f"qwen-stdlib-{kind}.yaml")
    changed = tiny(f"fixed-{kind}", parallelism=body["spec"]["parallelism"])
    status = bench.result(bench.submit(changed), _SECONDS)
    assert status["plan"][kind] == 2
    assert bench.losses(f"fixed-{kind}") == pytest.approx(reference, abs=1e-5)


def test_the_other_rendezvous_works_too_and_a_killed_operator_is_not_missed(
    bench: Bench, reference: list[float]
) -> None:
    name = bench.submit(tiny("by-c10d", trainer={"rendezvous": "c10d"}))
    bench.wait(name, in_phase("Starting", "Training", "Succeeded"), 120)
    operator = ("pod", "-l", "app.kubernetes.io/name=qwenft-operator")
    killing = ("delete", *operator, "--grace-period=0", "--force")
    assert "deleted" in platforms.kubectl(bench.platform, "-n", install.SYSTEM, *killing)
    status = bench.result(name, _SECONDS)
    assert (status["attempt"], status.get("restarts", 0)) == (1, 0)
    assert bench.losses(name) == pytest.approx(reference, abs=1e-5)


def test_a_script_of_one_s_own_prints_the_losses_of_one_plain_process(bench: Bench) -> None:
    script = _SCRIPT.read_text(encoding="utf-8")
    bench.script("train-qwen", script)
    trainer = {"script": {"configMap": {"name": "train-qwen"}}, "args": _WORDS}
    name = bench.submit(tiny("own-script", training={"batchSize": 8}, trainer=trainer))
    command = ["python", "-m", "qwenft_trainer", "--nproc-per-node=1", "/script/train.py", *_WORDS]
    plain = printed_losses(bench.pod("plain-process", command, script))
    bench.result(name, _SECONDS)
    assert len(plain) == 4
    assert printed_losses(bench.log(name)) == pytest.approx(plain, abs=1e-5)


def printed_losses(log: str) -> list[float]:
    return [float(text) for text in re.findall(r"loss[ =:]+(\d+\.\d+)", log)]


def test_the_command_line_follows_the_same_run(bench: Bench) -> None:
    def qwenft(*words: str) -> str:
        place = ["-n", bench.namespace, "--kubeconfig", str(bench.platform.kubeconfig)]
        command = [".venv/bin/qwenft", *words, *place]
        return run(command, environment=direct_environment(), cwd=platforms.ROOT)

    assert "Succeeded" in qwenft("status", "qwen-stdlib", "--watch")
    assert "qwen-stdlib" in qwenft("status")
    assert "totalSteps" in qwenft("logs", "qwen-stdlib", "--rank", "1") + qwenft(
        "logs", "qwen-stdlib"
    )
    assert "Succeeded" in qwenft("events", "qwen-stdlib")
