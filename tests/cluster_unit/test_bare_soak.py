"""The soak's own judgement: what it would not forgive the operator."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bare import page, soak
from bare.soak import KINDS, LOSS, Look
from bare.verdict import Verdict, judge
from endtoend import soaking
from endtoend.recovering import STEPS
from endtoend.soaking import Trained, of_the_soak, process_in, wrong_end

LIVES = dict.fromkeys(KINDS, 3)
FLAT = [(float(second), 100.0) for second in range(0, 60, 5)]


def verdict(**changes: Any) -> Verdict:
    given: dict[str, Any] = {"lives": LIVES, "wrong": (), "orphans": 0, "samples": FLAT} | changes
    return judge(60.0, given["lives"], given["wrong"], given["orphans"], given["samples"])


def test_lives_that_end_well_in_flat_memory_pass() -> None:
    assert verdict().passed


@pytest.mark.parametrize(
    "changes",
    [
        {"wrong": ("killed-0 failed: x",)},
        {"orphans": 1},
        {"lives": LIVES | {"killed": 0}},
        {"samples": [*FLAT, (61.0, 111.0)]},
        {"samples": [*FLAT, (61.0, 89.0)]},
    ],
)
def test_anything_else_does_not(changes: dict[str, Any]) -> None:
    assert not verdict(**changes).passed


def test_the_beginning_does_not_count() -> None:
    assert verdict(samples=[(1.0, 20.0), *FLAT[3:]]).passed
    hour = [(float(second), 100.0 if second > 300 else 50.0) for second in range(0, 3600, 60)]
    assert judge(3600.0, LIVES, (), 0, hour).passed, "five minutes of an hour"


class FakeApi:
    """Takes note of what it is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def create_run(self, body: Any) -> None:
        self.calls.append(f"create {body['metadata']['name']}")

    def call(self, method: str, path: str, *_: Any, **__: Any) -> None:
        self.calls.append(f"{method} {path.rsplit('/', 1)[1]}")


def run(name: str, phase: str, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"phase": phase} | status}


def look(*runs: dict[str, Any], pods: tuple[str, ...] = (), name: str = "a") -> Look:
    children = Counter({name: len(pods)})
    return Look(
        runs={each["metadata"]["name"]: each for each in runs},
        pods={name: list(pods)} if pods else {},
        children=children,
    )


def actor(kind: str) -> tuple[soak.Actor, FakeApi]:
    api = FakeApi()
    made = soak.Actor(api=api, kind=kind, name="a")  # type: ignore[arg-type]
    made.act(look(), begin=True)
    return made, api


def good(attempts: int) -> dict[str, Any]:
    return run("a", "Succeeded", attempt=attempts, result={"finalLoss": LOSS})


def test_a_life_is_led_to_the_end_of_its_last_object() -> None:
    made, api = actor("succeeds")
    made.act(look(run("a", "Starting")), begin=True)
    made.act(look(good(1), pods=("p",)), begin=True)
    assert api.calls == ["create a", "DELETE a"]
    made.act(look(pods=("p",)), begin=True)
    assert not made.rests, "a pod is left"
    made.act(look(), begin=True)
    assert (made.rests, made.ended, made.wrong) == (True, 1, [])
    made.act(look(), begin=False)
    assert made.rests, "no new life at the end"


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (run("a", "Failed", message="why"), "a failed: why"),
        (good(2), "a ended with attempt and loss (2, 1.25)"),
        (run("a", "Succeeded", attempt=1, result={"finalLoss": 9}), "(1, 9)"),
        (run("a", "Succeeded", attempt=1), "(1, None)"),
    ],
)
def test_a_wrong_end_is_told_and_cleared_away(end: dict[str, Any], told: str) -> None:
    made, api = actor("succeeds")
    made.act(look(end), begin=True)
    assert told in made.wrong[0]
    assert api.calls[-1] == "DELETE a"


def test_a_life_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = actor("preempted")
    monkeypatch.setattr(soak, "_PATIENCE", -1.0)
    made.act(look(run("a", "Starting")), begin=True)
    assert made.wrong == ["a: nothing for -1 s"]


@pytest.mark.parametrize(
    ("kind", "calls"),
    [
        ("killed", ["create a", "PATCH status", "DELETE a"]),
        ("lost", ["create a", "DELETE p0", "DELETE a"]),
        ("suspended", ["create a", "PATCH a", "PATCH a", "DELETE a"]),
        ("deleted", ["create a", "DELETE a"]),
    ],
)
def test_each_kind_does_what_its_name_says(kind: str, calls: list[str]) -> None:
    made, api = actor(kind)
    steps: list[Callable[[], Look]] = [
        lambda: look(run("a", "Starting"), pods=("p0", "p1")),
        lambda: look(run("a", "Suspended")),
        lambda: look(good(2)),
        look,
    ]
    for step in steps * 2:
        if made.rests:
            break
        made.act(step(), begin=True)
    assert (api.calls, made.wrong, made.ended) == (calls, [], 1)


def test_a_busy_apiserver_is_asked_again_and_any_other_refusal_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Busy:
        asked = 0

        def call(self, method: str) -> str:
            self.asked += 1
            if self.asked < 3:
                raise RuntimeError("GET /x: 429 b'storage is (re)initializing'")
            if method == "PUT":
                raise RuntimeError("PUT /x: 422 b'no'")
            return method

    monkeypatch.setattr(soak.time, "sleep", lambda _: None)
    assert soak.Patient(Busy()).call("GET") == "GET"  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="422"):
        soak.Patient(Busy()).call("PUT")  # type: ignore[arg-type]
    monkeypatch.setattr(soak, "_PATIENCE", -1.0)
    with pytest.raises(RuntimeError, match="429"):
        soak.Patient(Busy()).call("GET")  # type: ignore[arg-type]


def trained(**changes: Any) -> Trained:
    lives = dict.fromkeys(soaking.KINDS, 1)
    made = asdict(verdict(lives=lives)) | {"ended": 4, "loss": 2.5, "apart": 3e-7}
    return Trained(**(made | changes))


def test_the_page_tells_the_figures() -> None:
    told = page.text({"soak": verdict().told()})
    assert "Wrong ends: 0; objects left behind: 0" in told
    assert "No real runs" in told
    assert "passed" in told
    assert "**failed**" in page.text({"soak": verdict(orphans=2).told()})
    told = page.text({"soak": verdict().told(), "trained": trained().told()})
    assert "2.5, but for 3.0e-07 at most" in told
    assert "**failed**" not in told
    bad = trained(wrong=("soak-0-killed: its loss is 3",)).told()
    assert "**failed**" in page.text({"soak": verdict().told(), "trained": bad})


def test_the_page_knows_how_many_runs_there_are_at_a_time() -> None:
    assert soak._OF_EACH * len(KINDS) == page._AT_ONCE


def ended(phase: str = "Succeeded", attempt: int = 2, **result: Any) -> dict[str, Any]:
    found = {"steps": STEPS, "finalLoss": 2.5} | result
    return {"status": {"phase": phase, "attempt": attempt, "result": found}}


def test_a_real_run_has_to_end_as_if_nothing_had_happened() -> None:
    assert wrong_end(ended(), 2.5, 2) is None
    assert wrong_end(ended(finalLoss=2.500009), 2.5, 2) is None


@pytest.mark.parametrize(
    "end",
    [
        ended("Failed"),
        ended(attempt=1),
        ended(steps=STEPS - 1),
        ended(finalLoss=2.50002),
        ended(finalLoss=float("nan")),
        {"status": {"phase": "Succeeded", "attempt": 2}},
    ],
)
def test_any_other_end_of_a_real_run_is_told(end: dict[str, Any]) -> None:
    assert wrong_end(end, 2.5, 2) is not None


def test_what_is_left_of_a_real_run_is_known_by_its_label_or_name() -> None:
    own = {"name": "other", "labels": {"qwenft.dev/run": "soak-1-killed"}}
    assert of_the_soak(own)
    assert of_the_soak({"name": "soak-1-killed"})
    assert not of_the_soak({"name": "kube-root-ca.crt"})
    assert not of_the_soak(own | {"labels": {"qwenft.dev/run": "demo"}})


def test_the_operator_s_process_is_known_by_its_pod(tmp_path: Path) -> None:
    for pid, host, words in (("7", "op-1", b"pause"), ("8", "op-2", b"python\0qwenft_operator"),
                             ("9", "op-1", b"python\0-m\0qwenft_operator")):  # fmt: skip
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "environ").write_bytes(f"A=b\0HOSTNAME={host}\0".encode())
        (tmp_path / pid / "cmdline").write_bytes(words)
    (tmp_path / "10").mkdir()
    (tmp_path / "sys").mkdir()
    assert process_in("op-1", tmp_path) == 9
    with pytest.raises(LookupError, match="op-3"):
        process_in("op-3", tmp_path)


class FakeBench:
    """Takes note of what is done to a run that saves, and ends as it is told."""

    platform = namespace = None

    def __init__(self, end: dict[str, Any], *, met: bool = True) -> None:
        self.end, self.met, self.calls = end, met, []

    def submit(self, body: Any) -> str:
        return str(body["metadata"]["name"])

    def wait(self, _: str, condition: Callable[[Any], bool], __: float) -> dict[str, Any]:
        training = {"status": {"phase": "Training", "checkpoint": {"step": 4},
                               "progress": {"totalSteps": STEPS}}}  # fmt: skip
        seen = (training, self.end) if self.met else (self.end,)
        return next(each for each in seen if condition(each))

    def kubectl(self, *words: str) -> str:
        self.calls.append(words[0])
        return "pod"

    def describe(self, _: Any) -> str:
        return "described"


def lead(monkeypatch: pytest.MonkeyPatch, kind: str, bench: FakeBench, first: int = 4) -> Any:
    """Lead one life of a kind, whose last attempt reported from step ``first`` on."""
    removed: list[str] = []
    monkeypatch.setattr(soaking.training, "remove", lambda _, name, __: removed.append(name))
    monkeypatch.setattr(soaking, "KINDS", {kind: soaking.KINDS[kind]})
    monkeypatch.setattr(soaking, "losses_by_step", lambda *_: {first: 2.5, STEPS: 2.5})
    made = soaking.Actor(bench=bench, number=0, expected=2.5)  # type: ignore[arg-type]
    clock = iter((0.0, 2.0))
    monkeypatch.setattr(soaking.time, "monotonic", lambda: next(clock))
    made.lead(1.0, threading.Event())
    assert removed == [f"soak-0-{kind}"]
    return made


def test_a_real_life_is_led_compared_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = FakeBench(ended())
    made = lead(monkeypatch, "lost", bench)
    assert (dict(made.lives), made.losses, made.wrong) == ({"lost": 1}, [2.5], [])
    assert bench.calls == ["get", "delete"]


def test_a_real_run_that_ended_before_anything_happened_to_it_counts_as_undisturbed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = lead(monkeypatch, "killed", FakeBench(ended(attempt=1), met=False))
    assert (dict(made.lives), made.wrong) == ({"succeeds": 1}, [])


def test_a_real_run_that_is_deleted_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lead(monkeypatch, "deleted", FakeBench(ended()))
    assert (dict(made.lives), made.losses, made.wrong) == ({"deleted": 1}, [], [])


def test_a_wrong_loss_and_a_run_begun_anew_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lead(monkeypatch, "lost", FakeBench(ended(finalLoss=2.6)))
    assert "its loss is 2.6 instead of 2.5\ndescribed" in made.wrong[0]
    made = lead(monkeypatch, "lost", FakeBench(ended()), first=0)
    assert "began anew" in made.wrong[0]
