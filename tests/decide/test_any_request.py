"""Requests that are built from the definition's own schema, then edited, well and badly.

The apiserver would refuse what the schema forbids; the operator has to survive it all the same, for
definitions are upgraded and objects stay. After every edit: no look raises, the newest plan's Job
is the one that lives, nothing is written while nothing happens, a new process finds nothing to do,
and a good request is taken up again after any bad one.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenft_operator import names
from qwenft_operator.run import Run
from simulated import World
from simulated.controllers import succeed_after
from simulated.edits import EDITS, GOOD, Edit, edited

SEEN: Counter[str] = Counter()


class Edited:
    """A world with one run that is edited, and the oracles."""

    def __init__(self) -> None:
        self.world = World()
        self.world.program(succeed_after(10**9))
        self.world.submit()
        self.rest()

    @property
    def run(self) -> dict[str, Any]:
        return self.world.objects[names.KIND, "team", "tiny"]

    def replace(self, spec: Any) -> None:
        self.run["spec"] = spec
        self.run["metadata"]["generation"] += 1
        self.world.touch(self.run)

    def rest(self) -> None:
        """Let things happen until nothing is written for a while; then nothing may be."""
        quiet = 0
        for _ in range(200):
            before = len(self.world.writes)
            self.world.tick()
            quiet = quiet + 1 if len(self.world.writes) == before else 0
            if quiet == 8:
                return
        raise AssertionError(f"writes without an end: {self.world.writes[-9:]}")

    def check(self) -> None:
        """Hold what must be true at rest, also for a new process."""
        status, wrote = self.world.status(), len(self.world.writes)
        if Run.from_object(self.run).is_managed_elsewhere:
            self.world.reconciler = self.world.new_process()
            self.world.settle()
            assert len(self.world.writes) == wrote, "another controller answers for it"
            return
        assert status["observedGeneration"] == self.run["metadata"]["generation"]
        assert len(str(status)) < 20_000
        self.world.reconciler = self.world.new_process()
        self.world.settle()
        assert len(self.world.writes) == wrote, self.world.writes[wrote:]
        living = [job for job in self.world.of_kind("Job") if not job["status"].get("conditions")]
        if status["phase"] in (names.STARTING, names.TRAINING):
            (job,) = living
            labels = job["metadata"]["labels"]
            assert labels[names.LABEL_PLAN] == status["plan"]["digest"]
            assert labels[names.LABEL_ATTEMPT] == str(status["attempt"])
            assert job["spec"]["completions"] == status["plan"]["nodes"]
        elif status["phase"] in (names.FAILED, names.SUSPENDED):
            assert not living, status


def any_edits(edits: list[Edit], started: bool) -> None:  # noqa: FBT001
    """Edit a run; ``started``: one that runs already, else one that is new with every edit."""
    life = Edited()
    for kind, path, value in edits:
        if not started:
            life = Edited.__new__(Edited)
            life.world = World()
            life.world.program(succeed_after(10**9))
            life.world.submit()
        life.replace(edited(life.run["spec"], kind, path, value))
        life.rest()
        life.check()
        SEEN[kind] += 1
        SEEN[f"phase {life.world.status().get('phase')}"] += 1
    if started:
        return
    life.replace(copy.deepcopy(GOOD))
    life.rest()
    assert life.world.status()["phase"] in (names.STARTING, names.SUSPENDED), life.world.status()


def lead(examples: int, caplog: pytest.LogCaptureFixture) -> Counter[str]:
    SEEN.clear()
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    with caplog.at_level(logging.WARNING):
        drawn = given(st.lists(EDITS, min_size=6, max_size=12), st.booleans())(any_edits)
        settings(
            max_examples=examples, deadline=None, derandomize=True, database=None,
            suppress_health_check=quiet,
        )(drawn)()  # fmt: skip
    assert not [record for record in caplog.records if record.exc_info], "a traceback in the log"
    return SEEN


def test_a_hundred_edits_leave_the_operator_right(caplog: pytest.LogCaptureFixture) -> None:
    seen = lead(16, caplog)
    assert sum(count for kind, count in seen.items() if not kind.startswith("phase")) >= 60


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_two_thousand_edits_leave_the_operator_right(caplog: pytest.LogCaptureFixture) -> None:
    seen = lead(400, caplog)
    print(dict(seen))
    assert sum(count for kind, count in seen.items() if not kind.startswith("phase")) >= 2000
    assert min(seen[kind] for kind in ("allowed", "junk", "removed", "whole", "good")) > 100
    assert seen["phase Failed"] > 100
    assert seen["phase Starting"] > 100
