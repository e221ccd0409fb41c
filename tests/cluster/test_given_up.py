"""Attempts that never come to anything, before a real apiserver, Job controller and scheduler.

Pods are KWOK's, and what they report is sent with the tokens of theirs. How a hang looks where
ranks train is in test_e2e_hanging.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bare import nodes
from bare.api import Api
from bare.plane import Plane, plane
from bare.process import Operator
from bare.team import Team, report
from embedded import binaries, layout, versions
from embedded.stages import wait_until
from qwenft_operator.clock import parse_time
from serving import make_certificates

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]

PATIENCE = 6
"""Seconds that these operators wait."""
WHOLE_NODES = {"nodes": {"min": 2, "max": 2}, "processesPerNode": 2}
"""Two nodes of two CPUs, all of each."""
SPARE = ("node-0002", "node-0003")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    place = layout.from_environment()
    for product in (*binaries.products(versions.load()), *binaries.on_demand(versions.load())):
        binaries.build(place, product)
    with plane(tmp_path_factory.mktemp("given-up"), place) as started:
        started.namespace("team")
        for name in ("node-0000", "node-0001"):
            started.kubectl("create", "-f", "-", stdin=nodes.node(name, cpus=2))
        ends = [nodes.ending(2, 0, seconds=1, run=name) for name in ("mute", "stuck")]
        nodes.start_kwok(started, *ends, linger=1)
        yield started


@pytest.fixture
def team(made: Plane) -> Iterator[Team]:
    found = Team(plane=made, api=Api(made))
    yield found
    found.clear()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def gangs(made: Plane, team: Team) -> Iterator[Operator]:
    """Start an operator that does not wait long for nodes; the scheduler is stopped meanwhile."""
    assert team
    for name in SPARE:
        made.kubectl("create", "-f", "-", stdin=nodes.node(name, cpus=2))
    made.stop("scheduler")
    try:
        with Operator.running(made, QWENFT_NODE_PATIENCE=str(PATIENCE)) as operator:
            yield operator
            team.clear()
    finally:
        made.kubectl("delete", "node", "--ignore-not-found", *SPARE)
        made.kubectl("uncordon", "node-0001")
        if "scheduler" not in made.started:
            made.start_scheduler()


@pytest.fixture
def steps(made: Plane, team: Team, certificates: Path) -> Iterator[Operator]:
    """Start an operator that hears of steps and does not wait long for them."""
    assert team
    with Operator.running(
        made, QWENFT_STEP_PATIENCE=str(PATIENCE), QWENFT_FIRST_STEP_PATIENCE=str(2 * PATIENCE),
        QWENFT_PROGRESS_URL=f"https://127.0.0.1:{made.ports['progress']}",
        QWENFT_CERTIFICATES=str(certificates), QWENFT_PROGRESS_PORT=str(made.ports["progress"]),
    ) as operator:  # fmt: skip
        yield operator
        team.clear()


@pytest.mark.usefixtures("gangs")
def test_half_a_gang_is_named_released_and_started_when_there_are_nodes(team: Team) -> None:
    team.plane.kubectl("delete", "node", *SPARE)
    team.submit("half", resources=WHOLE_NODES)
    team.await_pods("half", 2)
    team.plane.kubectl("cordon", "node-0001")  # after the plan, and before the scheduler looks
    team.plane.start_scheduler()
    told = team.reach("half", "Starting", word="1 of 2 pods find no node")
    assert "unschedulable" in told["message"], "the scheduler's own words"
    told = team.reach("half", "Pending", word="needs 2×2, free: 1×2 CPU")
    assert (told["failure"]["reason"], told["attempt"]) == ("Unschedulable", 1)
    assert "1 of 2" not in told["message"]
    assert team.await_pods("half", 0) == [], "the half that had a node has given it back"
    team.plane.kubectl("uncordon", "node-0001")
    told = team.reach("half", "Starting", word="2 of 2 pods run", attempt=2)
    assert (told["restarts"], told["retries"]) == (1, 0)


@pytest.mark.usefixtures("gangs")
def test_two_runs_that_hold_half_of_what_each_needs_start_one_after_the_other(team: Team) -> None:
    for name in ("left", "right"):
        team.submit(name, resources=WHOLE_NODES)
        first, _ = team.await_pods(name, 2)
        team.bind(first, "node-0000" if name == "left" else "node-0001")
    team.plane.kubectl("delete", "node", *SPARE)  # which both plans had counted on
    team.plane.start_scheduler()
    for name in ("left", "right"):
        team.reach(name, "Starting", word="1 of 2 pods find no node")
    wait_until(
        lambda: any("2 of 2 pods run" in team.status(n).get("message", "") for n in BOTH),
        seconds=120, what="one of the two", every=0.2, log=team.plane.folder / "operator.log",
    )  # fmt: skip
    (lucky,) = (n for n in BOTH if "2 of 2 pods run" in team.status(n)["message"])
    (other,) = set(BOTH) - {lucky}
    waits = team.reach(other, "Pending", word="needs 2×2")
    assert waits["failure"]["reason"] == "Unschedulable"
    team.kubectl("delete", "qft", lucky)
    told = team.reach(other, "Starting", word="2 of 2 pods run", attempt=2)
    assert (told["restarts"], told["retries"]) == (1, 0)


BOTH = ("left", "right")


@pytest.mark.usefixtures("steps")
def test_a_run_that_is_stuck_before_its_first_step_is_restarted_and_it_counts(team: Team) -> None:
    team.submit("mute")
    told = team.reach("mute", "Succeeded")
    (failure,) = told["failures"]
    assert failure["reason"] == "Hung"
    assert "no progress since its start" in failure["message"]
    assert f"limit {2 * PATIENCE} s" in failure["message"]
    assert (told["attempt"], told["retries"]) == (2, 1)


@pytest.mark.usefixtures("steps")
def test_a_run_that_trains_no_new_step_is_restarted_and_it_counts(
    team: Team, certificates: Path
) -> None:
    team.submit("stuck")
    team.reach("stuck", "Starting", word="2 of 2 pods run")
    for step in (1, 2):
        tell(team, certificates, "stuck", step)
    told = team.reach("stuck", "Succeeded")
    (failure,) = told["failures"]
    assert (failure["reason"], failure["attempt"]) == ("Hung", 1)
    assert "no progress since step 2" in failure["message"]
    assert (told["attempt"], told["retries"]) == (2, 1)


def test_an_operator_that_was_down_for_longer_than_it_is_patient_ends_no_run(
    team: Team, steps: Operator, certificates: Path
) -> None:
    team.submit("well")
    team.reach("well", "Starting", word="2 of 2 pods run")
    tell(team, certificates, "well", 1)
    team.reach("well", "Training")
    steps.stop()
    heard = parse_time(team.status("well")["progress"]["lastUpdatedTime"])
    assert heard is not None
    wait_until(
        lambda: datetime.now(UTC).timestamp() > heard + 3 * PATIENCE, seconds=60, what="its absence"
    )
    steps.start()
    tell(team, certificates, "well", 2)
    wait_until(lambda: team.status("well")["progress"]["step"] == 2, seconds=30, what="the step")
    told = team.status("well")
    assert (told["phase"], told["attempt"]) == ("Training", 1)
    assert "failures" not in told


def tell(team: Team, certificates: Path, name: str, step: int) -> None:
    told = {"attempt": 1, "step": step, "totalSteps": 9}
    report(team.plane, certificates, (team.namespace, name), team.token(name), told)
