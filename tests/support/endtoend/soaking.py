"""Real runs on the embedded cluster that things happen to for a while, two at a time.

Whatever happens to a run, it ends with the loss of one that nothing happened to. How much memory
the operator's process takes is read from this machine's ``/proc``: the embedded cluster's nodes
share it.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bare.process import cost_of
from bare.verdict import Verdict, judge
from demo import install, platforms, training
from endtoend.bench import Bench, finished, in_phase
from endtoend.recovering import KILL_RANKS, STEPS, losses_by_step, pod_of, recovering, saved
from endtoend.runs import Body
from qwenft_operator import names

__all__ = ["KINDS", "Soak", "Trained", "wrong_end"]

TOLERANCE = 1e-5
"""How far a final loss may be from that of the undisturbed run."""
_AT_ONCE = 2
_PATIENCE = 600.0
"""Seconds that a step of a life may take. Where the nodes hold one run, the other waits for it."""
_SAMPLE_SECONDS = 5.0
PREFIX = "soak-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained(Verdict):
    """A verdict, and what the ended runs trained."""

    ended: int
    """Runs whose loss was compared."""
    loss: float
    """The undisturbed run's final loss."""
    apart: float
    """The largest difference of any final loss from it."""


def kill_rank(bench: Bench, name: str) -> None:
    """End a rank as the kernel does."""
    bench.kubectl("exec", pod_of(bench, name, 1), "--", "python", "-c", KILL_RANKS)


def delete_pod(bench: Bench, name: str) -> None:
    """Delete a pod, as an eviction or a person would."""
    bench.kubectl("delete", "pod", pod_of(bench, name, 1), "--wait=false")


def pause(bench: Bench, name: str) -> None:
    """Suspend the run, and resume it when nothing of it runs any more."""
    bench.access.suspend(name, suspended=True)
    bench.wait(name, in_phase("Suspended"), _PATIENCE)
    bench.until(lambda: not bench.access.pods(name), _PATIENCE, f"the end of {name}'s pods")
    bench.access.suspend(name, suspended=False)


KINDS: Mapping[str, Callable[[Bench, str], None] | None] = {
    "killed": kill_rank, "lost": delete_pod, "suspended": pause, "succeeds": None, "deleted": None,
}  # fmt: skip
"""Kind → what happens to a run that trains."""


def wrong_end(body: Body, expected: float, attempts: int) -> str | None:
    """Return what is wrong with the end of a run, or None."""
    status = body["status"]
    result = status.get("result") or {}
    found = (status["phase"], status.get("attempt"), result.get("steps"))
    if found != ("Succeeded", attempts, STEPS):
        return f"phase, attempt and steps are {found} instead of {('Succeeded', attempts, STEPS)}"
    if not abs(result["finalLoss"] - expected) <= TOLERANCE:
        return f"its loss is {result['finalLoss']} instead of {expected}"
    return None


@dataclass(kw_only=True)
class Actor:
    """Leads one real run after the other, of each kind in turn."""

    bench: Bench
    number: int
    expected: float
    lives: Counter[str] = field(default_factory=Counter)
    losses: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def lead(self, deadline: float, over: threading.Event) -> None:
        """Begin lives until ``deadline``, a time of the monotonic clock, or until it is over."""
        kinds = tuple(KINDS)
        turn = self.number * (len(kinds) // _AT_ONCE)
        while time.monotonic() < deadline and not over.is_set():
            kind = kinds[turn % len(kinds)]
            name = f"{PREFIX}{self.number}-{kind}"
            try:
                try:
                    self._live(kind, name)
                finally:
                    training.remove(self.bench.platform, name, self.bench.namespace)
            except Exception as error:  # noqa: BLE001 - a life that went wrong is a finding
                self.wrong.append(f"{name}: {error}")
            turn += 1

    def _live(self, kind: str, name: str) -> None:
        bench = self.bench
        bench.submit(recovering(name))
        happens = KINDS[kind]
        attempts = 1
        if happens is not None or kind == "deleted":
            seen = bench.wait(name, lambda body: saved(body) or finished(body), _PATIENCE)
            if finished(seen):
                kind, happens = "succeeds", None  # it was faster than the look at it
        if kind != "deleted":
            if happens is not None:
                happens(bench, name)
                attempts = 2
            self._end(name, attempts)
        self.lives[kind] += 1

    def _end(self, name: str, attempts: int) -> None:
        body = self.bench.wait(name, finished, _PATIENCE)
        if found := wrong_end(body, self.expected, attempts):
            self.wrong.append(f"{name}: {found}\n{self.bench.describe(body)}")
            return
        if attempts > 1 and min(losses_by_step(self.bench, name)) < 2:
            self.wrong.append(f"{name} began anew instead of going on from its checkpoint")
        self.losses.append(float(body["status"]["result"]["finalLoss"]))


class Soak:
    """Real lives on one bench, and what is seen of the operator meanwhile."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.over = threading.Event()
        name = bench.submit(recovering(f"{PREFIX}undisturbed"))
        self._expected = float(bench.result(name, _PATIENCE)["result"]["finalLoss"])
        training.remove(bench.platform, name, bench.namespace)
        self._pid = operator_process(bench)

    def lead(self, seconds: float) -> Trained:
        """Lead lives for so long, let all of them end, and judge."""
        began = time.monotonic()
        actors = [
            Actor(bench=self._own(), number=number, expected=self._expected)
            for number in range(_AT_ONCE)
        ]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            going = [pool.submit(actor.lead, began + seconds, self.over) for actor in actors]
            samples = self._watch(going, began)
        lives = {kind: sum(actor.lives[kind] for actor in actors) for kind in KINDS}
        wrong = [line for actor in actors for line in actor.wrong]
        if operator_process(self._bench) != self._pid:
            wrong.append("the operator's pod was started anew")
        found = judge(seconds, lives, tuple(wrong), self._orphans(), samples)
        losses = [loss for actor in actors for loss in actor.losses]
        return Trained(
            **asdict(found),
            ended=len(losses),
            loss=self._expected,
            apart=max((abs(loss - self._expected) for loss in losses), default=0.0),
        )

    def _own(self) -> Bench:
        """Return a bench with a client of its own: clients are not shared between threads."""
        bench = self._bench
        return replace(bench, access=training.access(bench.platform, bench.namespace), submitted=[])

    def _watch(self, going: list[Future[None]], began: float) -> list[tuple[float, float]]:
        samples = []
        while wait(going, timeout=_SAMPLE_SECONDS).not_done:
            with suppress(FileNotFoundError):  # that it is gone is told at the end
                samples.append((time.monotonic() - began, cost_of(self._pid).resident_mib))
        for each in going:
            each.result()
        return samples

    def _orphans(self) -> int:
        kinds = "qft,jobs,pods,services,configmaps,networkpolicies"
        items = json.loads(self._bench.kubectl("get", kinds, "-o", "json"))["items"]
        return sum(of_the_soak(each["metadata"]) for each in items)


def of_the_soak(metadata: Mapping[str, Any]) -> bool:
    """Whether an object is a run of the soak, or was made for one."""
    labels = metadata.get("labels") or {}
    return str(labels.get(names.LABEL_RUN, metadata["name"])).startswith(PREFIX)


def operator_process(bench: Bench) -> int:
    """Return the process id, on this machine, of the operator's pod."""
    words = ("get", "pod", "-l", "app.kubernetes.io/name=qwenft-operator", "-o",
             "jsonpath={.items[0].metadata.name}")  # fmt: skip
    pod = platforms.kubectl(bench.platform, "-n", install.SYSTEM, *words)
    return process_in(pod, Path("/proc"))


def process_in(pod: str, processes: Path) -> int:
    """Return the operator's process among those of a pod; ``LookupError`` where there is none."""
    for entry in processes.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if f"HOSTNAME={pod}".encode() in variables and b"qwenft_operator" in words:
            return int(entry.name)
    raise LookupError(f"no process of pod {pod}")
