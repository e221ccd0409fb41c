"""What happens to a run when something of it dies: it goes on, and trains what it would have."""

from __future__ import annotations

import pytest

from demo import install, platforms
from endtoend.bench import Bench
from endtoend.recovering import (
    KILL_RANKS,
    finish,
    pod_of,
    recovering,
    start,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


def test_a_killed_rank_costs_a_restart_and_nothing_else(bench: Bench, undisturbed: float) -> None:
    name = start(bench, recovering("kill-rank"))
    victim = pod_of(bench, name, 1)
    bench.kubectl("exec", victim, "--", "python", "-c", KILL_RANKS)
    status = finish(bench, name, undisturbed)
    assert (status["attempt"], status["restarts"], status["retries"]) == (2, 1, 1)
    failure = status["failures"][0]
    assert (failure["rank"], failure["pod"]) == (1, victim)
    assert any(kind == "Warning" for kind, _, _ in bench.events(name))


def test_a_deleted_pod_is_a_preemption_and_does_not_count(bench: Bench, undisturbed: float) -> None:
    name = start(bench, recovering("delete-pod", runPolicy={"backoffLimit": 0}))
    bench.kubectl("delete", "pod", pod_of(bench, name, 1), "--wait=false")
    status = finish(bench, name, undisturbed)
    assert (status["attempt"], status["restarts"], status["retries"]) == (2, 1, 0)


def test_a_killed_operator_changes_nothing(bench: Bench, undisturbed: float) -> None:
    name = start(bench, recovering("kill-operator"))
    words = ["delete", "pod", "-l", "app.kubernetes.io/name=qwenft-operator", "--grace-period=0"]
    platforms.kubectl(bench.platform, "-n", install.SYSTEM, *words, "--force", "--wait=false")
    status = finish(bench, name, undisturbed)
    assert status["attempt"] == 1
    assert "failures" not in status
