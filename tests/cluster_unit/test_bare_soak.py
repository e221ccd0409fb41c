"""The soak's own judgement: what it would not forgive the operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from bare import page, soak
from bare.soak import KINDS, LOSS, Look, Verdict, judge

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


def test_the_page_tells_the_figures() -> None:
    told = page.text({"soak": asdict(verdict()) | {"passed": True}})
    assert "Wrong ends: 0; objects left behind: 0" in told
    assert "passed" in told
    assert "**failed**" in page.text({"soak": asdict(verdict(orphans=2)) | {"passed": False}})
