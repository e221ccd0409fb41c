"""Plans of one moment share one read of the cluster, and no two of them the same devices."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from qwenft_operator import names
from qwenft_operator.decision import Decision
from qwenft_operator.outlook import Outlook
from qwenft_operator.port import Unavailable
from qwenft_operator.reconcile import Key, Reconciler
from qwenft_operator.run import Run
from qwenft_operator.view import View
from simulated import World, node_body
from simulated.controllers import succeed_after

WHOLE = {"nodes": {"min": 1, "max": 1}, "processesPerNode": 2}
"""A run that takes one node of two cores."""

LOST = {"name": names.CONTAINER, "state": {"terminated": {"exitCode": 64}}}


WHILE = 600.0
"""Seconds that no test takes, however busy its machine: what is read once stays shared."""


class Counting(World):
    """A world whose process shares its reads, and which counts what it asks of the cluster."""

    def __init__(self, nodes: int) -> None:
        self.asked: Counter[str] = Counter()
        super().__init__(nodes=[f"node-{number:03}" for number in range(nodes)])
        self.shared_for = WHILE
        self.reconciler = self.new_process()
        self.program(succeed_after(10**6))

    async def list(
        self, kind: str, namespace: str = "", **words: Any
    ) -> tuple[Mapping[str, Any], ...]:
        if not namespace:
            self.asked[kind] += 1
        await asyncio.sleep(0)
        return await super().list(kind, namespace, **words)

    def together(self, run_names: list[str], *, reconciler: Reconciler | None = None) -> None:
        """Look at runs at the same time."""
        look = reconciler or self.reconciler

        async def main() -> None:
            await asyncio.gather(*(look(Key("team", name)) for name in run_names))

        World.wait_for(main())

    def fleet(self, size: int, **sections: Any) -> list[str]:
        """Submit runs."""
        found = [f"run-{number:03}" for number in range(size)]
        for name in found:
            self.submit(name, **sections)
        return found

    def phases(self) -> Counter[str]:
        bodies = self.of_kind(names.KIND)
        return Counter(body.get("status", {}).get("phase", "") for body in bodies)

    def make_pods(self) -> None:
        """Let the pods of all Jobs come up, each on a node of its own."""
        self._controllers.step()
        for number, pod in enumerate(self.of_kind("Pod")):
            pod["spec"]["nodeName"] = f"node-{number:03}"


def test_fifty_runs_that_start_together_are_planned_on_one_read() -> None:
    world = Counting(nodes=50)
    world.together(world.fleet(50, resources=WHOLE))
    assert world.phases() == {"Starting": 50}
    assert world.asked == {"Node": 1, "Pod": 1, "Job": 1, names.KIND: 1, "PriorityClass": 1}


def test_no_two_of_them_get_the_same_devices() -> None:
    world = Counting(nodes=30)
    world.together(world.fleet(50, resources=WHOLE))
    assert world.phases() == {"Starting": 30, "Pending": 20}
    assert world.asked["Pod"] == 1
    assert len(world.of_kind("Job")) == 30


@pytest.mark.parametrize("cores", [1, 2, 3, 4])
def test_what_starts_on_one_read_is_what_starts_on_many(cores: int) -> None:
    def started(*, shared: bool) -> list[str]:
        world = Counting(nodes=7)
        world.shared_for = WHILE if shared else 0.0
        world.reconciler = world.new_process()
        for number in range(7):
            size = {"cpu": str(number % 3 + 2), "memory": "8Gi", "pods": "9"}
            world.put(node_body(f"node-{number:03}", allocatable=size))
        for number in range(9):
            nodes = {"min": number % 3 + 1, "max": number % 3 + 1}
            resources = {"nodes": nodes, "processesPerNode": cores}
            world.submit(f"run-{number}", resources=resources, training={"batchSize": 72})
        world.together([f"run-{number}" for number in range(9)])
        assert (world.asked["Pod"] == 1) == shared
        jobs = world.of_kind("Job")
        return [f"{job['metadata']['name']} {job['spec']['completions']}" for job in jobs]

    assert started(shared=True) == started(shared=False) != []


def test_the_next_moment_reads_anew() -> None:
    world = Counting(nodes=1)
    first, second = world.fleet(2, resources=WHOLE)
    now = 100.0
    world.reconciler._outlook._clock = lambda: now
    world.together([first])
    now += WHILE - 0.1
    world.together([second])
    assert (world.asked["Node"], world.phases()["Pending"]) == (1, 1)
    world.put(node_body("node-new"))
    now += 0.2
    world.together([second])
    assert (world.asked["Node"], world.phases()["Starting"]) == (2, 2)


def test_what_is_freed_is_seen_at_once() -> None:
    world = Counting(nodes=1)
    first, second = world.fleet(2, resources=WHOLE)
    world.together([first, second])
    world.put(node_body("node-new"))
    world.together([second])
    assert world.phases()["Pending"] == 1, "nobody told that there is a node more"
    world.reconciler.freed()
    world.together([second])
    assert world.phases() == {"Starting": 2}


def test_a_view_that_grew_old_while_it_was_read_serves_one_plan_only() -> None:
    world = Counting(nodes=2)
    first, second = world.fleet(2, resources=WHOLE)
    listed = world.list

    async def overtaken(kind: str, namespace: str = "", **selectors: Any) -> Any:
        found = await listed(kind, namespace, **selectors)
        if kind == "Node":
            world.reconciler.freed()
        return found

    world.list = overtaken  # type: ignore[method-assign, assignment]
    world.together([first, second])
    assert world.phases() == {"Starting": 2}
    assert world.asked["Node"] == 2


def test_a_start_that_fails_half_way_leaves_no_view_behind() -> None:
    world = Counting(nodes=1)
    first, second = world.fleet(2, resources=WHOLE)
    apply = world.apply

    async def failing(manifest: Any) -> None:
        await apply(manifest)
        if manifest["kind"] == "Job":
            raise Unavailable("the connection was cut off")

    world.apply = failing  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        world.together([first])
    world.apply = apply  # type: ignore[method-assign]
    world.together([second])
    assert world.asked["Node"] == 2
    assert world.status(second)["phase"] == "Pending", "the first one's Job is there"


def test_a_refused_start_takes_nothing_from_the_others() -> None:
    world = Counting(nodes=1)
    first, second = world.fleet(2, resources=WHOLE)
    world.refusals["Job"] = "exceeded quota"
    world.together([first])
    world.refusals.clear()
    world.together([second])
    assert world.phases() == {"Pending": 1, "Starting": 1}
    assert world.status(second)["phase"] == "Starting"


def restarting(world: World, name: str) -> None:
    """Let the only attempt of a run fail, its pods be gone, and its run know of it."""
    job = world.objects["Job", "team", f"{name}-1"]
    job["status"]["conditions"] = [{"type": "Failed", "status": "True", "reason": "x"}]
    for pod in world.of_kind("Pod"):
        if pod["metadata"]["name"].startswith(f"{name}-1-"):
            pod["status"] = {"phase": "Failed", "containerStatuses": [LOST]}


def test_runs_that_restart_together_get_what_they_had_back_and_no_more() -> None:
    world = Counting(nodes=6)
    fleet = world.fleet(8, resources=WHOLE)
    world.together(fleet)
    world.make_pods()
    started = [name for name in fleet if world.status(name)["phase"] == "Starting"]
    for name in started:
        restarting(world, name)
    world.reconciler.freed()
    world.asked.clear()
    for _ in range(4):
        world.together(fleet)
    assert world.asked["Pod"] == 1
    assert world.phases() == {"Starting": 6, "Pending": 2}
    assert {world.status(name)["attempt"] for name in started} == {2}


def test_a_run_is_not_hindered_by_what_the_view_still_shows_of_it() -> None:
    world = Counting(nodes=1)
    (name,) = world.fleet(1, resources=WHOLE)
    world.together([name])
    world.make_pods()
    world.reconciler.freed()
    world.submit("late", resources=WHOLE)
    world.together(["late"])
    assert world.status("late")["phase"] == "Pending"
    restarting(world, name)
    for _ in range(3):
        world.together([name])
    assert world.asked["Node"] == 2, "the view of before the failure was good enough"
    assert world.status(name)["attempt"] == 2


def test_a_process_that_shares_nothing_keeps_nothing() -> None:
    world = World()

    async def main() -> View | None:
        outlook = Outlook(world, lasts=0.0)
        await outlook.view()
        return outlook._view

    assert asyncio.run(main()) is None


def test_a_view_is_dropped_when_its_time_is_over() -> None:
    """It is as large as the cluster: nobody may have to ask for it to go."""

    async def main() -> tuple[bool, bool]:
        outlook = Outlook(World(), lasts=0.01)
        await outlook.view()
        kept = outlook._view is not None
        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(0.02, gone.set)
        await gone.wait()
        return kept, outlook._view is None

    assert asyncio.run(main()) == (True, True)


def entered(change: Callable[[View, Run], View]) -> tuple[View, View]:
    world = World()
    world.submit()

    async def main() -> tuple[View, View]:
        outlook = Outlook(world)
        view = await outlook.view()
        run = Run.from_object(world.objects[names.KIND, "team", "tiny"])
        other = change(view, run)
        with outlook.entered(other, run, Decision(status={"phase": "Pending"})):
            pass
        return view, await outlook.view()

    return asyncio.run(main())


def test_a_decision_is_entered_into_the_view_that_it_was_made_on() -> None:
    _, after = entered(lambda view, _run: view)
    assert [body["status"]["phase"] for body in after.runs] == ["Pending"]


def test_a_decision_on_a_view_of_before_is_not_entered_into_a_newer_one() -> None:
    before, after = entered(lambda view, run: view.after(run, Decision()))
    assert after is before


class Slow(Counting):
    """A world whose Jobs take their time to be made, while others are planned."""

    def __init__(self, nodes: int) -> None:
        self.making = asyncio.Event()
        self.go_on = asyncio.Event()
        self.dies = False
        super().__init__(nodes)

    async def apply(self, manifest: Mapping[str, Any]) -> str:
        if manifest["kind"] == "Job" and manifest["metadata"]["name"] == "run-000-1":
            self.making.set()
            await self.go_on.wait()
            if self.dies:
                raise Unavailable("cut off")
        return await super().apply(manifest)


def planned_beside(world: Slow, *, anew: bool) -> None:
    """Plan the second run while the first one's Job is being made."""
    first, second = world.fleet(2, resources=WHOLE)

    async def main() -> None:
        starting = asyncio.create_task(world.reconciler(Key("team", first)))
        await world.making.wait()
        if anew:
            world.reconciler.freed()
        await world.reconciler(Key("team", second))
        world.go_on.set()
        await asyncio.gather(starting, return_exceptions=True)

    World.wait_for(main())


@pytest.mark.parametrize("anew", [False, True])
def test_a_run_is_planned_while_another_is_being_made_and_not_on_its_nodes(*, anew: bool) -> None:
    """Also where the cluster is read in between, and does not show that other one's Job yet."""
    world = Slow(nodes=1)
    planned_beside(world, anew=anew)
    assert world.asked["Node"] == 1 + anew
    assert {name: world.status(name)["phase"] for name in ("run-000", "run-001")} == {
        "run-000": "Starting",
        "run-001": "Pending",
    }


def test_what_could_not_be_made_takes_nothing_from_the_next() -> None:
    world = Slow(nodes=1)
    world.dies = True
    planned_beside(world, anew=False)
    assert not world.of_kind("Job")
    world.together(["run-001"])
    assert world.status("run-001")["phase"] == "Starting"
    assert not world.reconciler._outlook._under_way


def test_a_view_that_took_long_to_read_is_good_for_longer() -> None:
    now = 0.0

    async def main() -> list[int]:
        nonlocal now
        world = Counting(nodes=1)
        outlook = Outlook(world, lasts=2.0, clock=lambda: now)
        listed = world.list

        async def slowly(kind: str, *args: Any, **words: Any) -> Any:
            nonlocal now
            now += 1.0 if kind == "Node" else 0.0
            return await listed(kind, *args, **words)

        world.list = slowly  # type: ignore[method-assign]
        found = []
        for wait in (0.0, 9.9, 0.2):
            now += wait
            await outlook.view()
            found.append(world.asked["Node"])
        return found

    assert asyncio.run(main()) == [1, 1, 2]
