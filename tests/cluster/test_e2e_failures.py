"""Input that cannot work ends at once: a typed exit code, its cause in sight, no retry."""

from __future__ import annotations

from typing import Any

import pytest

from demo import install, platforms
from embedded.stages import StageError
from endtoend import files
from endtoend.bench import Bench, finished
from endtoend.runs import Body, merged, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_SECONDS = 900
_SCRIPT = {"script": {"configMap": {"name": "raising"}}}
# One node is enough to find what is wrong; where a script raises, a peer must not take the blame.
_ALONE = {"nodes": {"min": 1, "max": 1}}
BAD: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "no-dataset": ({"dataset": {"path": "/data/gone.pt"}}, 65, "DatasetInvalid", "/data/gone.pt"),
    "corrupt": (
        {"dataset": {"path": "/data/corrupt.pt"}},
        65,
        "DatasetInvalid",
        "/data/corrupt.pt",
    ),
    "outside": ({"dataset": {"path": "/data/outside.pt"}}, 65, "DatasetInvalid", "4096"),
    "no-model": ({"model": {"path": "/data/gone"}}, 66, "ModelInvalid", "/data/gone"),
    "other-model": ({"model": {"config": {"hidden_size": 512}}}, 66, "", "hidden_size"),
    "raising": ({"trainer": _SCRIPT}, 70, "WorkerError", "the script's own complaint"),
}


@pytest.fixture(scope="module")
def ended(bench: Bench) -> dict[str, Body]:
    """Submit every bad run at once and wait for all of them: they take turns on the nodes."""
    bench.script("raising", files.RAISING)
    for name, (changes, *_) in BAD.items():
        nodes = {} if "trainer" in changes else {"resources": _ALONE}
        bench.submit(tiny(f"bad-{name}", **(nodes | changes)))
    return {name: bench.wait(f"bad-{name}", finished, _SECONDS) for name in BAD}


@pytest.mark.parametrize("name", BAD)
def test_the_cause_stands_in_the_status(ended: dict[str, Body], name: str) -> None:
    _, code, reason, words = BAD[name]
    status = ended[name]["status"]
    assert status["phase"] == "Failed"
    failure = status["failure"]
    assert failure["exitCode"] == code
    assert failure["reason"] == reason or not reason
    assert words in failure["message"]
    assert failure["attempt"] == 1
    assert failure["node"]


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_tried_again_in_vain(bench: Bench, ended: dict[str, Body], name: str) -> None:
    assert (ended[name]["status"]["attempt"], ended[name]["status"].get("restarts", 0)) == (1, 0)
    jobs = bench.kubectl("get", "jobs", "-l", f"qwenft.dev/run=bad-{name}", "-o", "name").split()
    assert jobs == [f"job.batch/bad-{name}-1"]


@pytest.mark.parametrize("name", BAD)
def test_a_warning_says_it_too(bench: Bench, ended: dict[str, Body], name: str) -> None:
    assert ended[name]["status"]["phase"] == "Failed"
    words = BAD[name][3]
    told = [event for event in bench.events(f"bad-{name}") if event[0] == "Warning"]
    assert any(words in message for _, _, message in told), told


def test_conditions_tell_machines_that_it_is_over(ended: dict[str, Body]) -> None:
    conditions = {one["type"]: one["status"] for one in ended["no-dataset"]["status"]["conditions"]}
    assert (conditions["Stalled"], conditions["Succeeded"]) == ("True", "False")


def test_the_operator_has_not_noticed(bench: Bench, ended: dict[str, Body]) -> None:
    assert ended
    path = "jsonpath={.items[*].status.containerStatuses[*].restartCount}"
    words = ("get", "pods", "-l", "app.kubernetes.io/name=qwenft-operator", "-o", path)
    assert platforms.kubectl(bench.platform, "-n", install.SYSTEM, *words).split() == ["0"]


def test_an_impossible_plan_waits_with_its_numbers_and_makes_no_pod(bench: Bench) -> None:
    huge = {"hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 120}
    name = bench.submit(tiny("impossible", model={"config": huge}))
    # Nodes that another run holds come first: then there are too few of them.
    body = bench.wait(name, lambda body: "GiB" in planned(body).get("message", ""), _SECONDS)
    assert planned(body)["status"] == "False"
    assert body["status"]["phase"] == "Pending"
    assert bench.children(name) == ()
    assert any("GiB" in message for _, _, message in bench.events(name))


def planned(body: Body) -> dict[str, str]:
    conditions = (body.get("status") or {}).get("conditions") or ()
    return next((dict(one) for one in conditions if one["type"] == "Planned"), {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"batchSize": "many"}}, "spec.training.batchSize"),
        ({"training": {"batchSize": 0}}, "spec.training.batchSize"),
        ({"training": {"learningrate": 1}}, "learningrate"),
        ({"resources": {"nodes": {"min": 3, "max": 2}}}, "spec.resources.nodes"),
        ({"dataset": {"path": "relative.pt"}}, "spec.dataset.path"),
        ({"parallelism": {"pipelineSchedule": "DAPPLE"}}, "pipelineSchedule"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_is_refused_by_the_apiserver_and_named(
    bench: Bench, changes: dict[str, Any], words: str
) -> None:
    body = merged(tiny("wrong"), {"spec": changes})
    with pytest.raises(StageError, match=words.replace(".", r"\.")):
        bench.apply(body, "--dry-run=server", "--validate=strict")
