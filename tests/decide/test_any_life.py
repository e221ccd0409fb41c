"""Random lives of two runs on one cluster, and what must hold at every second of each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_operator import names
from qwenft_operator.policies.growth import LEAST_AGE
from simulated import World, node_body
from simulated.controllers import Ending, succeed_after

RUNS = ("tiny", "other")
CODES = (64, 65, 67, 68, 69, 70, 137)
ACTIONS = (
    "wait", "wait", "wait", "train", "fewer", "more", "report", "kill", "lose", "heal",
    "suspend", "resume", "delete pod", "delete job", "restart operator", "crash",
)  # fmt: skip
steps = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7), st.sampled_from(RUNS)),
    min_size=5,
    max_size=40,
)


class Life:
    """A world in which things happen, watched by its invariants."""

    def __init__(self) -> None:
        self.world = World()
        self.doomed: dict[tuple[str, int, int], int] = {}
        self.seen: dict[str, dict[str, Any]] = {}
        self.hurried = True
        self.seconds = 0
        for name in RUNS:
            self.world.submit(name, resources={"nodes": {"min": 1, "max": 2}})
        self.world.program(self.run_pod)

    def run_pod(self, attempt: int, rank: int, age: float) -> Ending | None:
        for (_, doomed_attempt, doomed_rank), code in self.doomed.items():
            if (doomed_attempt, doomed_rank) == (attempt, rank):
                return Ending(code=code, message={"exitCode": code})
        return succeed_after(25 if self.hurried else 2500)(attempt, rank, age)

    def act(self, action: str, number: int, name: str) -> None:
        world, attempt = self.world, self.world.status(name).get("attempt", 0)
        if action == "report" and attempt:
            world.report(number, attempt=attempt, name=name)
        elif action == "train" and attempt:
            self.train(number, name)
        elif action == "kill":
            self.doomed[name, attempt, number % 2] = CODES[number % len(CODES)]
        else:
            self.disturb(action, number, name, attempt)

    def disturb(self, action: str, number: int, name: str, attempt: int) -> None:
        world = self.world
        if action in ("fewer", "more"):
            world.edit(name, resources={"nodes": {"min": 1, "max": 1 + (action == "more")}})
        elif action == "lose":
            world.lose(f"node-{number % 2 + 1}")
        elif action == "heal":
            world.put(node_body(f"node-{number % 2 + 1}"))
        elif action in ("suspend", "resume"):
            world.edit(name, runPolicy={"suspend": action == "suspend"})
        elif action == "delete pod":
            world.objects.pop(("Pod", "team", f"{name}-{attempt}-{number % 2}-x"), None)
        elif action == "delete job":
            world.objects.pop(("Job", "team", f"{name}-{attempt}"), None)
        elif action == "restart operator":
            world.reconciler = world.new_process()
        elif action == "crash":
            world.crash_at = 2 * len(world.writes) + number

    def train(self, number: int, name: str) -> None:
        """Let the run train for minutes with much before it: what a better plan could save."""
        self.hurried = False
        for second in range(30 * number):
            attempt = self.world.status(name).get("attempt", 0)
            if second % 10 == 0 and attempt:
                self.world.report(second + 1, attempt=attempt, name=name, remaining=9000.0)
            self.second()
        self.hurried = True

    def second(self) -> None:
        self.seconds += 1
        for name in RUNS:
            self.world.settle(name)
        self.world.tick(RUNS[0])
        self.world.settle(RUNS[1])
        for name in RUNS:
            self.check(name)

    def check(self, name: str) -> None:
        status, before = self.world.status(name), self.seen.get(name, {})
        attempts = {attempt for attempt, _ in self.live_pods(name)}
        assert len(attempts) <= 1, f"attempts {attempts} run at once"
        most = math.log2(1 + self.seconds / LEAST_AGE) + 1
        assert status.get("growths", 0) <= most, "it restarts again and again to grow"
        for counter in ("attempt", "restarts", "retries", "growths"):
            assert status.get(counter, 0) >= before.get(counter, 0), counter
        if before.get("phase") in names.TERMINAL:
            assert status["phase"] == before["phase"], "a terminal phase changed"
        explained = {item["attempt"] for item in status.get("failures", ())}
        assert status.get("restarts", 0) < 5 or len(explained) == 5
        assert not status.get("restarts") or status["failure"]["message"]
        assert {item["observedGeneration"] for item in status["conditions"]} == {
            status["observedGeneration"]
        }
        assert status.get("retries", 0) <= 3, "backoffLimit"
        self.seen[name] = status

    def live_pods(self, name: str) -> Iterator[tuple[int, str]]:
        for pod in self.world.of_kind("Pod"):
            labels = pod["metadata"]["labels"]
            running = pod["status"]["phase"] == "Running"
            if labels[names.LABEL_RUN] == name and running and "nodeName" in pod["spec"]:
                yield int(labels[names.LABEL_ATTEMPT]), pod["metadata"]["name"]

    def end(self) -> None:
        """Let everything heal: every run must come to an end of its own."""
        self.doomed.clear()
        for name in RUNS:
            if self.world.status(name)["phase"] not in names.TERMINAL:
                self.world.edit(name, runPolicy={"suspend": False})
        for node in ("node-1", "node-2"):
            self.world.put(node_body(node))
        for _ in range(1500):
            self.second()
            if all(self.world.status(name)["phase"] in names.TERMINAL for name in RUNS):
                return
        raise AssertionError({name: self.world.status(name) for name in RUNS})


@settings(max_examples=12, deadline=None, derandomize=True)
@given(steps)
def test_every_life_keeps_the_invariants_and_ends(script: list[tuple[str, int, str]]) -> None:
    live(script)


@pytest.mark.full
@settings(max_examples=2000, deadline=None)
@given(steps)
def test_thousands_of_lives_keep_the_invariants(script: list[tuple[str, int, str]]) -> None:
    live(script)


def live(script: list[tuple[str, int, str]]) -> None:
    life = Life()
    life.second()
    for action, number, name in script:
        life.act(action, number, name)
        for _ in range(number % 4):
            life.second()
    life.end()
