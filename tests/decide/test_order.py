"""Who starts first: priority, then age; and no run is overtaken for ever. Simulated lives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwenft_operator import names, order
from qwenft_operator.port import Refused
from qwenft_operator.run import Settings
from simulated import World, node_body, run_body
from simulated.controllers import succeed_after

FOREVER = succeed_after(10**6)
PATIENCE = Settings().patience_seconds


def resources(nodes: int, **more: Any) -> dict[str, Any]:
    """Return the resources of a run that takes whole nodes."""
    return {"nodes": {"min": nodes, "max": nodes}, "processesPerNode": 2, **more}


def occupied(nodes: int = 2) -> World:
    """Return a world whose nodes are all taken by a run, and no other."""
    world = World(nodes=[f"node-{number + 1}" for number in range(nodes)])
    world.program(FOREVER)
    world.submit("old", resources=resources(nodes))
    world.settle("old")
    for _ in range(3):
        world.tick("old")
    return world


def wait(world: World, name: str, nodes: int = 1, **sections: Any) -> None:
    """Submit a run that has to wait."""
    world.now += 5.0
    world.submit(name, **({"resources": resources(nodes)} | sections))
    world.settle(name)
    assert world.status(name)["phase"] == "Pending"


def free(world: World, name: str = "old") -> None:
    """Let a run be deleted, with everything of it."""
    for place in list(world.objects):
        kind, _, key = place
        ours = key == name if kind == names.KIND else key.startswith(f"{name}-")
        if kind != "Node" and ours:
            del world.objects[place]


def phase(world: World, name: str) -> str:
    return str(world.status(name)["phase"])


def reason(world: World, name: str) -> str:
    found = {item["type"]: item["reason"] for item in world.status(name)["conditions"]}
    return str(found["Planned"])


def test_the_later_run_lets_the_earlier_go_first_whoever_is_looked_at_first() -> None:
    world = occupied(1)
    wait(world, "first")
    wait(world, "second")
    free(world)
    world.settle("second")
    assert (phase(world, "second"), reason(world, "second")) == ("Pending", order.REASON)
    told = world.status("second")["message"]
    assert told == "needs 1×2, free: 1×2 CPU; 1 run ahead, first first; first may start first"
    world.settle("first")
    assert phase(world, "first") == "Starting"
    world.settle("second")
    assert reason(world, "second") == "Infeasible"


def test_nobody_waits_for_a_turn_where_there_is_enough_for_all() -> None:
    world = occupied(2)
    wait(world, "first")
    wait(world, "second")
    free(world)
    world.settle("second")
    assert (phase(world, "first"), phase(world, "second")) == ("Pending", "Starting")
    world.settle("first")
    assert phase(world, "first") == "Starting"


def test_a_flexible_run_takes_what_those_before_it_leave() -> None:
    world = occupied(4)
    wait(world, "first", 2)
    wait(world, "second", resources=resources(1) | {"nodes": {"min": 1, "max": 4}})
    free(world)
    world.settle("second")
    assert phase(world, "second") == "Starting"
    assert world.status("second")["plan"]["nodes"] == 2


def priority_class(world: World, name: str, value: int, *, default: bool = False) -> None:
    world.put({"kind": "PriorityClass", "metadata": {"name": name}, "value": value,
               "globalDefault": default})  # fmt: skip


def test_a_higher_priority_goes_before_age() -> None:
    world = occupied(1)
    priority_class(world, "urgent", 100)
    wait(world, "first")
    wait(world, "urgent", runPolicy={"priorityClassName": "urgent"})
    assert "ahead" not in world.status("urgent")["message"]
    free(world)
    world.settle("first")
    assert "; 1 run ahead, first urgent; urgent may start first" in world.status("first")["message"]
    world.settle("urgent")
    assert phase(world, "urgent") == "Starting"


def test_the_default_class_is_that_of_runs_which_name_none() -> None:
    world = occupied(1)
    priority_class(world, "usual", 50, default=True)
    priority_class(world, "low", 10)
    wait(world, "low", runPolicy={"priorityClassName": "low"})
    wait(world, "usual")
    free(world)
    world.settle("low")
    assert (phase(world, "low"), reason(world, "low")) == ("Pending", order.REASON)


def test_where_priority_classes_may_not_be_read_age_alone_counts() -> None:
    world = occupied(1)
    priority_class(world, "urgent", 100)
    listed = world.list

    async def forbidden(kind: str, namespace: str = "", **selectors: str) -> Any:
        if kind == "PriorityClass":
            raise Refused("list of PriorityClass", "forbidden")
        return await listed(kind, namespace, **selectors)

    world.list = forbidden  # type: ignore[method-assign, assignment]
    wait(world, "first")
    wait(world, "urgent", runPolicy={"priorityClassName": "urgent"})
    free(world)
    world.settle("first")
    assert phase(world, "first") == "Starting"


def test_the_waiting_are_woken_in_their_order() -> None:
    world = occupied(1)
    priority_class(world, "urgent", 100)
    for name in ("b", "a", "c"):
        wait(world, name)
    wait(world, "urgent", runPolicy={"priorityClassName": "urgent"})
    assert [key.name for key in world.reconciler.waiting] == ["urgent", "b", "a", "c"]


def half_free() -> World:
    """Return a world of two nodes, one taken, in which a run waits for both."""
    world = occupied(1)
    world.put(node_body("node-2"))
    wait(world, "big", 2)
    return world


def test_a_small_run_overtakes_a_big_one_that_cannot_start_yet() -> None:
    world = half_free()
    world.now += PATIENCE - 60
    world.submit("small", resources=resources(1))
    world.settle("small")
    assert phase(world, "small") == "Starting"


def test_a_run_that_has_waited_for_long_is_overtaken_no_more() -> None:
    world = half_free()
    world.now += PATIENCE
    world.submit("small", resources=resources(1))
    world.settle("small")
    assert (phase(world, "small"), reason(world, "small")) == ("Pending", order.REASON)
    told = world.status("small")["message"]
    assert told.endswith("; nodes are kept for big, overtaken for 10 min already")
    free(world)
    world.settle("small")
    assert "big may start first" in world.status("small")["message"]
    world.settle("big")
    assert phase(world, "big") == "Starting"


def test_no_more_nodes_are_kept_than_the_run_needs() -> None:
    world = half_free()
    for number in (3, 4):
        world.put(node_body(f"node-{number}", allocatable={"cpu": "1", "memory": "8Gi"}))
    world.now += PATIENCE
    world.submit("small", resources=resources(1))
    world.submit("tiny", resources=resources(2) | {"processesPerNode": 1})
    world.settle("small")
    world.settle("tiny")
    assert phase(world, "small") == "Pending"
    assert phase(world, "tiny") == "Starting", "no process of the big one fits beside it"


def test_a_run_that_no_empty_cluster_could_take_keeps_nobody_waiting() -> None:
    world = half_free()
    wait(world, "huge", 5)
    free(world, "big")
    world.now += PATIENCE
    world.submit("small", resources=resources(1))
    world.settle("small")
    assert phase(world, "small") == "Starting"


def test_nodes_that_the_run_cannot_use_are_not_kept() -> None:
    world = occupied(1)
    for number in (2, 3):
        world.put(node_body(f"node-{number}", labels={"pool": "b"}))
    wait(world, "big", resources=resources(2, nodeSelector={"pool": "a"}))
    world.now += PATIENCE
    world.submit("small", resources=resources(1))
    world.settle("small")
    assert phase(world, "small") == "Starting"


def test_a_run_that_never_takes_its_turn_holds_nobody_up_for_long() -> None:
    world = occupied(1)
    wait(world, "sick")
    wait(world, "next")
    free(world)
    seconds = 0
    while phase(world, "next") == "Pending":
        assert seconds <= order.TURN_SECONDS
        world.settle("next")
        world.now += 1.0
        seconds += 1
    assert phase(world, "next") == "Starting"
    assert seconds > order.TURN_SECONDS - 2


@pytest.mark.parametrize("policy", [{"suspend": True}, {"managedBy": "example.com/other"}])
def test_runs_that_do_not_want_nodes_have_no_turn(policy: dict[str, object]) -> None:
    world = occupied(1)
    wait(world, "first")
    wait(world, "second")
    world.edit("first", runPolicy=policy)
    free(world)
    world.settle("second")
    assert phase(world, "second") == "Starting"


def test_a_run_that_lacks_something_else_has_no_turn() -> None:
    world = occupied(1)
    volume = {"persistentVolumeClaim": {"claimName": "missing"}}
    wait(world, "first", dataset={"path": "/data/x.pt", "volume": volume},
         model={"path": "/data/model", "volume": volume},
         output={"path": "/data/out", "volume": volume})  # fmt: skip
    assert reason(world, "first") == "Blocked"
    wait(world, "second")
    free(world)
    world.settle("second")
    assert phase(world, "second") == "Starting"


def test_a_run_in_a_queue_of_kueue_s_has_its_turn_from_the_queue() -> None:
    world = occupied(1)
    wait(world, "first")
    world.submit("queued", resources=resources(1))
    world.queue("team-queue", "queued")
    world.settle("queued")
    assert phase(world, "queued") == "Queued"
    wait(world, "second")
    world.queue("team-queue", "first")
    free(world)
    world.settle("second")
    assert phase(world, "second") == "Starting"


def test_a_run_of_another_namespace_is_not_named() -> None:
    world = occupied(1)
    world.put(run_body("secret", "rivals", resources=resources(1)))
    world.put(
        {"kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "rivals"}}
    )
    world.reconcile("secret", "rivals")
    wait(world, "second")
    free(world)
    world.settle("second")
    told = world.status("second")["message"]
    assert "first a run of another namespace; a run of another namespace may start" in told
    assert "secret" not in told
    assert "rivals" not in told


def test_a_restarting_run_gives_way_to_nobody() -> None:
    world = World(nodes=("node-1",))
    world.program(FOREVER)
    world.submit("old", resources=resources(1))
    world.settle("old")
    for _ in range(3):
        world.tick("old")
    priority_class(world, "urgent", 100)
    wait(world, "urgent", runPolicy={"priorityClassName": "urgent"})
    world.objects.pop(("Pod", "team", "old-1-0-x"))
    for _ in range(60):
        world.tick("old")
        world.settle("urgent")
    assert world.status("old")["attempt"] == 2
    assert phase(world, "urgent") == "Pending"


def deprived(*, known: bool) -> World:
    """Return a world in which the Job of a run was deleted, and its pods have ended."""
    world = occupied(1)
    wait(world, "next")
    del world.objects["Job", "team", "old-1"]
    for place in [place for place in world.objects if place[0] == "Pod"]:
        del world.objects[place]
    if known:
        assert world.reconcile("old") == 0.0
    assert phase(world, "old") == ("Restarting" if known else "Starting")
    return world


@pytest.mark.parametrize("known", [True, False])
def test_a_run_whose_job_was_deleted_gets_its_nodes_back(*, known: bool) -> None:
    world = deprived(known=known)
    world.settle("next")
    assert (phase(world, "next"), reason(world, "next")) == ("Pending", order.REASON)
    assert "; old may start first" in world.status("next")["message"]
    world.settle("old")
    assert (phase(world, "old"), world.status("old")["attempt"]) == ("Starting", 2)


@pytest.mark.parametrize("policy", [{"suspend": True}, {"managedBy": "example.com/other"}])
def test_it_does_not_if_it_is_not_to_go_on(policy: dict[str, object]) -> None:
    world = deprived(known=True)
    world.edit("old", runPolicy=policy)
    world.settle("next")
    assert phase(world, "next") == "Starting"


def stream(world: World, seconds: int) -> int | None:
    """Let a small run come every 20 s and last 50; return when the big one started."""
    small: list[str] = []
    for second in range(seconds):
        if second % 20 == 0:
            small.append(f"small-{second}")
            world.submit(small[-1], resources=resources(1))
        for name in small:
            if phase_of(world, name) not in names.TERMINAL:
                world.settle(name)
        world.tick("big")
        if phase(world, "big") in ("Starting", "Training"):
            return second
    return None


def phase_of(world: World, name: str) -> str:
    return str(world.status(name).get("phase", ""))


def flooded(patience: float) -> World:
    world = World()
    world.settings = replace(world.settings, patience_seconds=patience)
    world.reconciler = world.new_process()
    world.submit("old", resources=resources(1))
    world.settle("old")
    wait(world, "big", 2)
    world.program(succeed_after(50))
    return world


def test_a_stream_of_small_runs_does_not_starve_a_big_one() -> None:
    started = stream(flooded(patience=100.0), 300)
    assert started is not None
    assert 90 <= started <= 160, "what runs when patience ends may end"


def test_it_would_without_the_end_of_patience() -> None:
    assert stream(flooded(patience=float("inf")), 300) is None


def test_waiting_for_a_turn_writes_nothing() -> None:
    world = half_free()
    world.now += PATIENCE
    world.submit("small", resources=resources(1))
    world.settle("small")
    written = len(world.writes)
    for _ in range(20):
        world.now += 10.0
        assert world.reconcile("small") == 10.0
    assert len(world.writes) == written
