"""Gang schedulers: which is told, by what object, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_operator.app import Options
from qwenft_operator.discovery import FRESH_SECONDS, Discovery
from qwenft_operator.gangs import GANGS, WISHES, GangApi, candidates, chosen, missing
from qwenft_operator.run import Settings
from simulated import World
from simulated.controllers import fails, succeed_after

SERVED = {api.place: api for api in GANGS}
KUBERNETES = "scheduling.k8s.io/v1alpha1/Workload"
OLDER = "scheduling.k8s.io/v1alpha2/PodGroup"
NEWER = "scheduling.k8s.io/v1beta1/PodGroup"
VOLCANO = "scheduling.volcano.sh/v1beta1/PodGroup"
COSCHEDULING = "scheduling.x-k8s.io/v1alpha1/PodGroup"


def gang_world(wish: str, *serves: str, scheduler: str = "") -> World:
    world = World()
    world.serves = serves
    world.settings = Settings(gang=wish, scheduler=scheduler)
    world.reconciler = world.new_process()
    world.program(succeed_after(10**6))
    return world


def gangs_of(world: World) -> list[dict[str, Any]]:
    return world.of_kind("PodGroup") + world.of_kind("Workload")


def pod_of(world: World, attempt: int = 1) -> dict[str, Any]:
    template: dict[str, Any] = world.objects["Job", "team", f"tiny-{attempt}"]["spec"]["template"]
    return template


@pytest.mark.parametrize(
    ("place", "size"),
    [
        (KUBERNETES, lambda spec: spec["podGroups"][0]["policy"]["gang"]["minCount"]),
        (NEWER, lambda spec: spec["schedulingPolicy"]["gang"]["minCount"]),
        (VOLCANO, lambda spec: spec["minMember"]),
        (COSCHEDULING, lambda spec: spec["minMember"]),
    ],
)
def test_each_scheduler_is_told_that_all_pods_start_or_none(place: str, size: Any) -> None:
    world = gang_world(SERVED[place].name, place)
    world.submit()
    world.settle()
    (body,) = gangs_of(world)
    assert f"{body['apiVersion']}/{body['kind']}" == place
    assert size(body["spec"]) == 2
    assert body["metadata"]["labels"]["qwenft.dev/attempt"] == "1"


def test_pods_name_their_gang_as_their_scheduler_reads_it() -> None:
    found = {}
    for place, api in SERVED.items():
        world = gang_world(api.name, place)
        world.submit()
        world.settle()
        (body,) = gangs_of(world)
        found[place] = (body["metadata"]["name"], pod_of(world))
    name, pod = found[KUBERNETES]
    assert pod["spec"]["workloadRef"] == {"name": name, "podGroup": "ranks"}
    assert "schedulerName" not in pod["spec"]
    name, pod = found[NEWER]
    assert pod["spec"]["schedulingGroup"] == {"podGroupName": name}
    name, pod = found[VOLCANO]
    assert pod["metadata"]["annotations"]["scheduling.k8s.io/group-name"] == name
    assert pod["spec"]["schedulerName"] == "volcano"
    name, pod = found[COSCHEDULING]
    assert pod["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"] == name
    assert pod["spec"]["schedulerName"] == "scheduler-plugins-scheduler"


@pytest.mark.parametrize("place", [KUBERNETES, OLDER, NEWER, VOLCANO, COSCHEDULING])
def test_a_gang_has_the_priority_of_its_pods_where_its_kind_has_a_place_for_it(place: str) -> None:
    """By the published types: 1.36 refuses the field without one more gate, 1.35 has none."""
    world = gang_world(SERVED[place].name, place)
    world.submit(runPolicy={"priorityClassName": "high"})
    world.settle()
    (body,) = gangs_of(world)
    expected = "high" if place in (NEWER, VOLCANO) else None
    assert body["spec"].get("priorityClassName") == expected
    assert pod_of(world)["spec"]["priorityClassName"] == "high"


def test_a_gang_of_no_priority_names_none() -> None:
    world = gang_world("kubernetes", NEWER)
    world.submit()
    world.settle()
    (body,) = gangs_of(world)
    assert body["spec"] == {"schedulingPolicy": {"gang": {"minCount": 2}}}


UNKNOWN = (
    "scheduling.k8s.io/v1alpha3/PodGroup",
    "scheduling.k8s.io/v1alpha3/CompositePodGroup",
    "scheduling.k8s.io/v2/PodGroup",
    "scheduling.k8s.io/v1beta1/PriorityClass",  # until 1.21
    "scheduling.k8s.io/v1alpha2/Workload",  # a template of groups, not a group
)


@pytest.mark.parametrize("place", UNKNOWN)
def test_a_version_that_nobody_has_read_yet_is_left_alone(place: str) -> None:
    """Whatever its shape is: the run starts, and says what it looked for and did not find."""
    world = gang_world("kubernetes", place)
    world.submit()
    world.settle()
    assert gangs_of(world) == []
    assert {"workloadRef", "schedulingGroup"}.isdisjoint(pod_of(world)["spec"])
    told = "Started without a gang scheduler: the cluster does not serve scheduling.k8s.io/v1beta1"
    assert [told in event["message"] for event in world.events][:1] == [True]
    assert chosen("auto", [place]) is None


@pytest.mark.parametrize("known", [KUBERNETES, OLDER, NEWER])
def test_a_version_that_is_known_is_taken_beside_others_that_are_not(known: str) -> None:
    assert chosen("kubernetes", [*UNKNOWN, known]) == SERVED[known]


def test_of_two_versions_the_newer_is_taken() -> None:
    assert chosen("kubernetes", [KUBERNETES, OLDER, NEWER]) == SERVED[NEWER]
    assert chosen("kubernetes", [KUBERNETES, OLDER]) == SERVED[OLDER]


def test_a_scheduler_may_run_under_another_name() -> None:
    world = gang_world("coscheduling", COSCHEDULING, scheduler="our-scheduler")
    world.submit()
    world.settle()
    assert pod_of(world)["spec"]["schedulerName"] == "our-scheduler"


def test_volcano_learns_priority_queue_and_what_all_need_together() -> None:
    world = gang_world("volcano", VOLCANO)
    body = world.submit(runPolicy={"priorityClassName": "high"})
    body["metadata"]["annotations"] = {"scheduling.volcano.sh/queue-name": "team-a"}
    body["spec"]["resources"] |= {"memoryPerNode": "1Gi"}
    world.settle()
    (made,) = gangs_of(world)
    assert made["spec"] == {
        "minMember": 2,
        "minResources": {"cpu": "2000m", "memory": str(2 * 2**30)},
        "priorityClassName": "high",
        "queue": "team-a",
    }


def test_the_gang_is_there_before_the_job_and_belongs_to_it_afterwards() -> None:
    world = gang_world("volcano", VOLCANO)
    world.submit()
    world.settle()
    applied = [write.split()[1] for write in world.writes if write.startswith("apply")]
    kinds = [each.split("/")[0] for each in applied]
    assert kinds == ["ConfigMap", "Service", "NetworkPolicy", "PodGroup", "Job", "PodGroup"]
    (body,) = gangs_of(world)
    (owner,) = body["metadata"]["ownerReferences"]
    job = world.objects["Job", "team", "tiny-1"]
    assert (owner["kind"], owner["uid"]) == ("Job", job["metadata"]["uid"])


def test_a_gang_goes_with_its_attempt_and_the_next_has_its_own() -> None:
    world = gang_world("coscheduling", COSCHEDULING)
    world.program(fails(69, after=1, attempts=1))
    world.submit()
    for _ in range(60):
        world.tick()
        if world.status().get("attempt") == 2:
            break
    assert world.status()["attempt"] == 2
    for _ in range(30):
        world.tick()
    owners = {job["metadata"]["uid"] for job in world.of_kind("Job")}
    for body in gangs_of(world):
        assert {owner["uid"] for owner in body["metadata"]["ownerReferences"]} <= owners
    attempts = [body["metadata"]["labels"]["qwenft.dev/attempt"] for body in gangs_of(world)]
    assert "2" in attempts


def test_a_crash_between_any_two_writes_leaves_one_gang_that_is_collected() -> None:
    for crash in range(14):
        world = gang_world("volcano", VOLCANO)
        world.program(succeed_after(3))
        world.submit()
        world.crash_at = crash
        world.live_until("Succeeded", seconds=60)
        assert len(gangs_of(world)) == 1
        del world.objects["QwenFineTune", "team", "tiny"]
        for _ in range(10):
            world.now += 1
            world._controllers.step()
        assert gangs_of(world) == []


def test_without_a_wish_nothing_is_asked_and_nothing_made() -> None:
    world = gang_world("none", VOLCANO, KUBERNETES)
    world.submit()
    world.settle()
    assert (gangs_of(world), world.discoveries) == ([], [])


def test_a_scheduler_that_is_not_there_is_missed_aloud_and_the_run_starts() -> None:
    world = gang_world("volcano", COSCHEDULING)
    world.submit()
    world.settle()
    assert gangs_of(world) == []
    assert world.status()["phase"] == "Starting"
    assert any(
        "Started without a gang scheduler: the cluster does not serve scheduling.volcano.sh/v1beta1"
        in event["message"]
        for event in world.events
    )


def test_auto_takes_what_is_served_and_misses_nothing() -> None:
    assert chosen("auto", [VOLCANO, KUBERNETES]) == SERVED[KUBERNETES]
    assert chosen("auto", [NEWER, KUBERNETES]) == SERVED[NEWER]
    assert chosen("auto", [COSCHEDULING]) == SERVED[COSCHEDULING]
    assert chosen("auto", []) is None
    assert missing("auto", None) == ""


def test_a_run_in_a_queue_of_kueue_s_waits_once_only() -> None:
    world = gang_world("auto", VOLCANO)
    world.submit()
    world.queue("team-a")
    world.settle()
    assert gangs_of(world) == []
    assert "schedulerName" not in pod_of(world)["spec"]


class Clocked:
    """A cluster that only answers what it serves, and a clock."""

    def __init__(self, *serves: str) -> None:
        self.now = 0.0
        self.world = World()
        self.world.serves = serves

    def discovery(self, wish: str) -> Discovery:
        return Discovery(self.world, wish, clock=lambda: self.now)


def test_the_apiserver_is_asked_once_and_now_and_then_again() -> None:
    clocked = Clocked(VOLCANO)
    discovery = clocked.discovery("volcano")

    def ask() -> GangApi | None:
        found: GangApi | None = World.wait_for(discovery.gang())
        return found

    assert [ask(), ask(), ask()] == [SERVED[VOLCANO]] * 3
    assert len(clocked.world.discoveries) == 1
    clocked.now += FRESH_SECONDS
    clocked.world.serves = ()
    assert ask() is None
    clocked.world.serves = (VOLCANO,)
    assert ask() is None
    discovery.forget()
    assert ask() == SERVED[VOLCANO]
    assert len(clocked.world.discoveries) == 3


def test_the_settings_name_a_scheduler_or_are_refused() -> None:
    for wish in WISHES:
        assert Options.from_environment({"QWENFT_GANG": wish}).settings().gang == wish
    assert Options.from_environment({}).settings().gang == "none"
    with pytest.raises(ValueError, match="QWENFT_GANG: 'slurm' is none of none, auto, kub"):
        Options.from_environment({"QWENFT_GANG": "slurm"})


@given(wish=st.sampled_from(WISHES), served=st.sets(st.sampled_from(sorted(SERVED))))
def test_only_what_is_wished_for_and_served_is_chosen(wish: str, served: set[str]) -> None:
    api = chosen(wish, served)
    if api is None:
        assert not {each.place for each in candidates(wish)} & served
    else:
        assert api.place in served
        assert wish in ("auto", api.name)
    assert bool(missing(wish, api)) is (api is None and wish not in ("none", "auto"))
