"""What is tried once more, otherwise, and then no more: no number for a loss, too little memory."""

from __future__ import annotations

from typing import Any

import pytest

from endtoend import files
from endtoend.bench import Bench, finished
from endtoend.recovering import SECONDS, STEPS, finish, losses_by_step, recovering, start
from endtoend.runs import Body, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(1500)]
ALONE = {"nodes": {"min": 1, "max": 1}}


def failures(status: Body) -> list[dict[str, Any]]:
    return [dict(item) for item in status.get("failures", ())]


def poison(bench: Bench, name: str) -> int:
    """Damage the newest checkpoint of a run and return its step."""
    command = ["python", "/script/train.py", f"/data/e2e/{name}"]
    return int(bench.pod("poison", command, files.POISONING).split()[-1])


def suspend_and_poison(bench: Bench, name: str) -> int:
    """Stop a run, damage what it saved last, and set it going again."""
    bench.access.suspend(name, suspended=True)
    bench.wait(name, is_suspended, 200)
    step = poison(bench, name)
    bench.access.suspend(name, suspended=False)
    return step


def is_suspended(body: Body) -> bool:
    """Whether the pods are gone, too, those aside that failed and are kept."""
    conditions = (body.get("status") or {}).get("conditions", ())
    return ("Suspended", "True") in {(one["type"], one["status"]) for one in conditions}


def checkpoint(body: Body) -> int:
    return int(((body.get("status") or {}).get("checkpoint") or {}).get("step") or 0)


def test_a_weight_that_is_no_number_is_left_behind_by_an_older_checkpoint(
    bench: Bench, undisturbed: float
) -> None:
    name = start(bench, recovering("poisoned"))
    bench.wait(name, lambda body: checkpoint(body) >= 6, SECONDS)
    damaged = suspend_and_poison(bench, name)
    status = finish(bench, name, undisturbed)
    (failure,) = failures(status)
    assert (failure["exitCode"], failure["attempt"], status["attempt"]) == (67, 2, 3)
    assert f"older than that of step {damaged}" in warnings(bench, name)
    assert (status["restarts"], status["retries"]) == (1, 1)
    assert min(losses_by_step(bench, name)) <= damaged, "from before the damage"


def test_a_weight_that_is_no_number_again_ends_the_run(bench: Bench) -> None:
    name = start(bench, recovering("poisoned-twice", epochs=10))
    bench.wait(name, lambda body: checkpoint(body) >= 6, SECONDS)
    first = suspend_and_poison(bench, name)
    bench.wait(name, lambda body: len(failures(body["status"])) == 1, SECONDS)
    bench.wait(name, lambda body: checkpoint(body) > first, SECONDS)
    suspend_and_poison(bench, name)
    status = bench.wait(name, finished, SECONDS)["status"]
    assert status["phase"] == "Failed"
    assert [item["exitCode"] for item in failures(status)] == [67, 67]
    assert "learningRate" in status["message"]


def test_a_loss_that_is_no_number_without_a_checkpoint_ends_the_run(bench: Bench) -> None:
    training = {"learningRate": 1e9, "scheduler": "constant", "maxSteps": STEPS, "epochs": 5}
    name = bench.submit(tiny("diverging", training=training, checkpoint={"everySteps": 1}))
    status = bench.wait(name, finished, SECONDS)["status"]
    assert status["phase"] == "Failed"
    found = failures(status)
    assert [item["exitCode"] for item in found] == [67] * len(found)
    assert len(found) == status["attempt"] <= 2, "once more at most, where something was saved"
    assert "learningRate" in status["message"]


def warnings(bench: Bench, name: str) -> str:
    return "\n".join(text for kind, _, text in bench.events(name) if kind == "Warning")


def hoarding(bench: Bench, name: str, mebibytes: int) -> Body:
    """Return a run whose script takes so much host memory beside what torch takes."""
    bench.script("hoarding", files.HOARDING)
    trainer = {"script": {"configMap": {"name": "hoarding"}}, "args": [str(mebibytes)]}
    return tiny(name, resources={"memoryPerNode": "1400Mi"} | ALONE, trainer=trainer)


def test_a_container_over_its_limit_gets_half_as_much_again(bench: Bench) -> None:
    """The kubelet's limit and the kernel's killer: nothing stands in for them."""
    name = bench.submit(hoarding(bench, "cramped", 1300))
    status = bench.result(name, SECONDS)
    (failure,) = failures(status)
    assert failure["reason"] == "OOMKilled"
    assert status["attempt"] == 2
    assert status["memoryPerNodeGiB"] == pytest.approx(1400 * 1.5 / 1024)
    assert "2.05 GiB a node instead of 1.37" in warnings(bench, name)


def test_half_as_much_again_is_not_asked_for_twice(bench: Bench) -> None:
    name = bench.submit(hoarding(bench, "hopeless", 4000))
    status = bench.wait(name, finished, SECONDS)["status"]
    assert (status["phase"], status["attempt"]) == ("Failed", 2)
    assert [item["reason"] for item in failures(status)] == ["OOMKilled"] * 2
    assert "2.05 GiB, already raised, are not enough either" in status["message"]
    assert "spec.resources.memoryPerNode" in status["message"]
