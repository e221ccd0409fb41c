"""`python -m bare.soak [MINUTES]`: runs come, fail, are killed, suspended and deleted.

Every actor leads one run after the other through a life of its kind, under one name, before a real
apiserver, Job controller and scheduler; KWOK's pods end as each kind wants. Beside them real runs
train on the embedded cluster (:mod:`endtoend.soaking`). The figures go to
``docs/performance_operator.json``.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bare import nodes, page
from bare.api import Api
from bare.bench import FIGURES
from bare.fleet import TEAM, bench, small
from bare.process import Operator
from bare.verdict import Verdict, judge
from endtoend import soaking
from endtoend.stage import set_up
from qwenft_operator import names

__all__ = ["KINDS", "Soak", "main", "soak"]

LOSS = 1.25
RESULT = json.dumps({"result": {"finalLoss": LOSS, "steps": 10, "outputPath": "/data/out"}})
PREEMPTED = json.dumps({"exitCode": 64, "reason": "Preempted"})
RUNS = f"/apis/{names.API_VERSION}/namespaces/{TEAM}/{names.PLURAL}"
CHILDREN = (
    ("api/v1", "pods"), ("apis/batch/v1", "jobs"), ("api/v1", "configmaps"), ("api/v1", "services"),
    ("apis/networking.k8s.io/v1", "networkpolicies"),
)  # fmt: skip
_OF_EACH, _PODS = 3, 2
_SUCCEEDING = {"succeeds": 1, "preempted": 2, "killed": 2, "lost": 2, "suspended": 2}
"""Kind → the attempt whose pods end well."""
_BUSY = re.compile(r": (429|503) ")
_PATIENCE = 120.0
"""Seconds that a single step of a life may take."""
_SAMPLE_SECONDS = 5.0

Life = Iterator[Callable[["Look"], bool]]
"""Does something, then yields what has to come true before it goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What there is at one moment."""

    runs: dict[str, dict[str, Any]]
    pods: dict[str, list[str]]
    """Run → names of its pods."""
    children: Counter[str]
    """Run → how many objects carry its name."""

    def phase(self, name: str) -> str:
        """Return the run's phase."""
        return str((self.runs.get(name, {}).get("status") or {}).get("phase", ""))


def _succeeded(name: str, attempts: int) -> Callable[[Look], bool]:
    """Return whether the run has succeeded; a wrong end raises."""

    def look(seen: Look) -> bool:
        phase = seen.phase(name)
        if phase == names.FAILED:
            raise AssertionError(f"{name} failed: {seen.runs[name]['status'].get('message')}")
        if phase != names.SUCCEEDED:
            return False
        status = seen.runs[name]["status"]
        told = (status["attempt"], status.get("result", {}).get("finalLoss"))
        if told != (attempts, LOSS):
            raise AssertionError(f"{name} ended with attempt and loss {told}")
        return True

    return look


def _gone(name: str) -> Callable[[Look], bool]:
    return lambda seen: name not in seen.runs and not seen.children[name]


def _all_pods(name: str, pods: list[str] | None = None) -> Callable[[Look], bool]:
    """Wait for all pods of a run, whose names go to ``pods``."""

    def found(seen: Look) -> bool:
        there = list(seen.pods.get(name, ()))
        if pods is not None:
            pods[:] = there
        return len(there) == _PODS

    return found


def _succeeds(api: Api | Patient, name: str) -> Life:
    api.create_run(small(name, _PODS))
    yield _succeeded(name, 1)


def _preempted(api: Api | Patient, name: str) -> Life:
    api.create_run(small(name, _PODS))
    yield _succeeded(name, 2)


def _killed(api: Api | Patient, name: str) -> Life:
    """Kill the container of one of the pods, as its kubelet would tell of it."""
    pods: list[str] = []
    api.create_run(small(name, _PODS))
    yield _all_pods(name, pods)
    state = {"terminated": {"exitCode": 137, "reason": "Error"}}
    container = {"name": names.CONTAINER, "image": "i", "imageID": "", "ready": False,
                 "restartCount": 0, "state": state}  # fmt: skip
    status = {"status": {"phase": "Failed", "containerStatuses": [container]}}
    path = f"/api/v1/namespaces/{TEAM}/pods/{pods[0]}/status"
    api.call("PATCH", path, status, content="application/strategic-merge-patch+json")
    yield _succeeded(name, 2)


def _lost(api: Api | Patient, name: str) -> Life:
    """Delete one of the pods, as an eviction or a person would."""
    pods: list[str] = []
    api.create_run(small(name, _PODS))
    yield _all_pods(name, pods)
    api.call("DELETE", f"/api/v1/namespaces/{TEAM}/pods/{pods[0]}")
    yield _succeeded(name, 2)


def _suspended(api: Api | Patient, name: str) -> Life:
    api.create_run(small(name, _PODS))
    yield _all_pods(name)
    _suspend(api, name, suspend=True)
    yield lambda seen: seen.phase(name) == names.SUSPENDED and not seen.pods.get(name)
    _suspend(api, name, suspend=False)
    yield _succeeded(name, 2)


def _deleted(api: Api | Patient, name: str) -> Life:
    api.create_run(small(name, _PODS))
    yield _all_pods(name)


def _wrong(api: Api | Patient, name: str) -> Life:
    """Ask for a batch that no number of processes divides into."""
    body = small(name, _PODS)
    body["spec"]["training"]["batchSize"] = 3
    api.create_run(body)
    yield lambda seen: seen.phase(name) in (names.FAILED, names.PENDING)


KINDS: dict[str, Callable[[Api | Patient, str], Life]] = {
    "succeeds": _succeeds, "preempted": _preempted, "killed": _killed, "lost": _lost,
    "suspended": _suspended, "deleted": _deleted, "wrong": _wrong,
}  # fmt: skip


def _suspend(api: Api | Patient, name: str, *, suspend: bool) -> None:
    patch = {"spec": {"runPolicy": {"suspend": suspend}}}
    api.call("PATCH", f"{RUNS}/{name}", patch, content="application/merge-patch+json")


def stages() -> tuple[dict[str, Any], ...]:
    """Return how the pods of each kind end."""
    found = []
    for kind, ends in _SUCCEEDING.items():
        for number in range(_OF_EACH):
            run = f"{kind}-{number}"
            found.append(nodes.ending(ends, 0, seconds=4, message=RESULT, run=run))
            if kind == "preempted":
                found.append(nodes.ending(1, 64, seconds=3, message=PREEMPTED, run=run))
    return tuple(found)


class Patient:
    """Asks again where an apiserver is too busy to do anything, as a client-go does."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: self._again(getattr(self._api, name), *args, **options)

    def _again(self, ask: Callable[..., Any], *args: Any, **options: Any) -> Any:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return ask(*args, **options)
            except RuntimeError as error:
                if not _BUSY.search(str(error)) or time.monotonic() > deadline:
                    raise
            time.sleep(1.0)


@dataclass(kw_only=True)
class Actor:
    """Leads one run after the other through lives of one kind."""

    api: Api | Patient
    kind: str
    name: str
    ended: int = 0
    wrong: list[str] = field(default_factory=list)
    _life: Life | None = None
    _until: Callable[[Look], bool] | None = None
    _since: float = 0.0

    def act(self, seen: Look, *, begin: bool) -> None:
        """Go on as far as what is seen allows; ``begin``: start a new life after an end."""
        if self._until is None:
            if begin:
                self._life = self._whole()
                self._next()
            return
        try:
            if self._until(seen):
                self._next()
        except AssertionError as error:
            self._give_up(str(error))
        if self._until is not None and time.monotonic() - self._since > _PATIENCE:
            self._give_up(f"{self.name}: nothing for {_PATIENCE:.0f} s")

    @property
    def rests(self) -> bool:
        """Whether its last life has ended."""
        return self._until is None

    def _give_up(self, why: str) -> None:
        self.wrong.append(why)
        self._life = self._remove()
        self._next()

    def _next(self) -> None:
        assert self._life is not None
        self._since = time.monotonic()
        self._until = next(self._life, None)
        self.ended += self._until is None

    def _whole(self) -> Life:
        yield from KINDS[self.kind](self.api, self.name)
        yield from self._remove()

    def _remove(self) -> Life:
        with suppress(RuntimeError):  # it may have never been made, or be gone already
            self.api.call("DELETE", f"{RUNS}/{self.name}")
        yield _gone(self.name)


class Soak:
    """All actors, and what is seen of the operator meanwhile."""

    def __init__(self, api: Api | Patient, operator: Operator) -> None:
        self._api = api
        self._operator = operator
        self._actors = [
            Actor(api=api, kind=kind, name=f"{kind}-{number}")
            for kind in KINDS
            for number in range(_OF_EACH)
        ]

    def lead(self, seconds: float) -> Verdict:
        """Act for so long, let all lives end, and judge."""
        began = sampled = time.monotonic()
        samples: list[tuple[float, float]] = []
        while True:
            now = time.monotonic()
            seen = self._look()
            for actor in self._actors:
                actor.act(seen, begin=now - began < seconds)
            if now - sampled >= _SAMPLE_SECONDS:
                sampled = now
                samples.append((now - began, self._operator.cost().resident_mib))
            if now - began > seconds and all(actor.rests for actor in self._actors):
                break
            time.sleep(0.5)
        lives = {kind: sum(a.ended for a in self._actors if a.kind == kind) for kind in KINDS}
        wrong = tuple(line for actor in self._actors for line in actor.wrong)
        return judge(seconds, lives, wrong, self._look().children.total(), samples)

    def _look(self) -> Look:
        runs = {body["metadata"]["name"]: body for body in self._api.runs(TEAM)}
        children: Counter[str] = Counter()
        pods: dict[str, list[str]] = {}
        for kind, plural in CHILDREN:
            for metadata in self._api.metadata(TEAM, kind, plural):
                name = (metadata.get("labels") or {}).get(names.LABEL_RUN)
                if name is not None:
                    children[name] += 1
                if name is not None and plural == "pods":
                    pods.setdefault(name, []).append(metadata["name"])
        return Look(runs=runs, pods=pods, children=children)


def soak(minutes: float) -> Verdict:
    """Bring up a plane and soak the operator for so long."""
    with bench(12, *stages(), saves=True) as (_, api, operator):
        return Soak(Patient(api), operator).lead(60 * minutes)


def both(minutes: float) -> dict[str, Any]:
    """Soak one operator before KWOK and one on the embedded cluster at once; return the figures."""
    trained = soaking.Soak(set_up())
    with ThreadPoolExecutor(1) as aside:
        real = aside.submit(trained.lead, 60 * minutes)
        try:
            played = soak(minutes)
        except BaseException:
            trained.over.set()  # else it would be told in half an hour
            raise
        return {"soak": played.told(), "trained": real.result().told()}


def main() -> int:
    """Soak, and write the figures down; 1 if something was wrong."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    found = both(minutes)
    print(json.dumps(found, indent=1))
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    known |= found
    FIGURES.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write(known)
    return 0 if all(part["passed"] for part in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
