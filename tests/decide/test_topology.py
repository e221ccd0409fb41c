"""Where the pods of a plan are to lie: in one zone if its rate needs that, near if they can."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_operator.nodes import Capacity, capacity
from qwenft_operator.render import Placement
from qwenft_operator.topology import LEVELS, ZONE, Nearness, domains_of, nearness
from qwenft_plan.inventory import PLAIN, Inventory, NodeShape
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan
from qwenft_plan.spec import FinetuneSpec
from simulated import World, node_body
from simulated.builders import spec_mapping

BLOCK, RACK = "cloud.provider.com/topology-block", "cloud.provider.com/topology-rack"
CLIQUE = "nvidia.com/gpu.clique"
LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "node.kubernetes.io/instance-type": "p5.48xlarge",
}
EIGHT = {"cpu": "96", "memory": "1Ti", "nvidia.com/gpu": "8"}
EFA = {"vpc.amazonaws.com/efa": "32"}
Labels = dict[str, str]


def spec_of(least: int = 2, most: int | None = None, **resources: Any) -> FinetuneSpec:
    nodes = {"min": least} | ({} if most is None else {"max": most})
    training = {"batchSize": 64, "sequenceLength": 2048, "precision": "bf16"}
    mapping = spec_mapping(training=training) | {"model": {"name": "Qwen/Qwen1.5-7B"}}
    wanted = {"nodes": nodes, "gpusPerNode": 8} | resources
    return FinetuneSpec.from_mapping(mapping | {"resources": wanted})


def planned(
    spec: FinetuneSpec, *where: Labels, cards: Labels = EFA
) -> tuple[Planned, Placement, Capacity]:
    """Plan on one node at each place."""
    nodes = [
        node_body(f"n{index}", allocatable=EIGHT | cards, labels=LABELS | labels)
        for index, labels in enumerate(where)
    ]
    found = capacity(spec.resources, nodes, [])
    chosen = plan(spec=spec, model=ModelShape.for_spec(spec.model), inventory=found.inventory)
    return found.explained(chosen), found.placement(spec, chosen), found


def zone(name: str, **more: str) -> Labels:
    return {ZONE: name} | more


def test_a_plan_stays_in_the_zone_whose_rate_it_assumes() -> None:
    chosen, placement, _ = planned(spec_of(2, 2), zone("a"), zone("b"), zone("b"))
    assert placement.selector[ZONE] == "b"
    assert chosen.chosen.work.device.network == 400e9
    assert "over EFA, within zone b)" in chosen.reason
    assert placement.wiring.resources == {"vpc.amazonaws.com/efa": 32}


def test_a_plan_that_no_zone_can_hold_assumes_tcp_and_says_so() -> None:
    chosen, placement, _ = planned(spec_of(4, 4), zone("a"), zone("b"), zone("b"), zone("b"))
    assert ZONE not in placement.selector
    assert placement.wiring.resources == {}
    assert "assumes 12.5 GB/s" in chosen.reason
    assert "over TCP, across 2 zones)" in chosen.reason


def test_where_all_nodes_lie_in_one_zone_nothing_is_required() -> None:
    chosen, placement, _ = planned(spec_of(2, 2), zone("a"), zone("a"))
    assert ZONE not in placement.selector
    assert "zone" not in chosen.reason


def test_a_plan_on_one_node_may_go_to_any_zone() -> None:
    _, placement, _ = planned(spec_of(1, 1), zone("a"), zone("b"), zone("b"))
    assert ZONE not in placement.selector


def test_over_tcp_too_pods_stay_together_where_that_costs_nothing() -> None:
    _, placement, _ = planned(spec_of(2, 2), zone("a"), zone("b"), zone("b"), cards={})
    assert placement.selector[ZONE] == "b"


def test_the_request_s_own_zone_is_the_one() -> None:
    spec = spec_of(2, 2, nodeSelector={ZONE: "a"})
    _, placement, _ = planned(spec, zone("a"), zone("a"), zone("b"), zone("b"), zone("b"))
    assert placement.selector[ZONE] == "a"


def test_nodes_without_a_zone_are_no_zone_of_their_own() -> None:
    chosen, placement, _ = planned(spec_of(2, 2), {}, {}, zone("a"))
    assert ZONE not in placement.selector
    assert chosen.chosen.group.fabric == PLAIN


def test_of_equal_zones_only_the_largest_is_weighed() -> None:
    places = [zone(name) for name in "aabbbcc"]
    _, _, found = planned(spec_of(2, 2), *places)
    assert [(group.zone, group.count) for group in found.inventory.groups()] == [("", 7), ("b", 3)]


def test_pods_prefer_the_narrowest_domain_that_has_room() -> None:
    places = [{BLOCK: "1", RACK: "r1"}, {BLOCK: "1", RACK: "r2"}, {BLOCK: "1", RACK: "r2"},
              {BLOCK: "2", RACK: "r3"}]  # fmt: skip
    chosen, placement, _ = planned(spec_of(2, 2), *places)
    assert placement.near == Nearness(domain=(RACK, "r2"))
    assert f"Pods prefer {RACK}=r2, which has room for all of them." in chosen.reason


def test_where_no_rack_has_room_a_block_is_preferred_and_few_racks_in_it() -> None:
    places = [{BLOCK: "1", RACK: f"r{index // 2}"} for index in range(4)]
    places += [{BLOCK: "2", RACK: "r8"}, {BLOCK: "2", RACK: "r9"}]
    chosen, placement, _ = planned(spec_of(4, 4), *places)
    assert placement.near == Nearness(domain=(BLOCK, "1"), keys=(RACK,))
    assert f"{BLOCK}=1, which has room for all of them and few domains of {RACK}" in chosen.reason


def test_of_domains_with_room_the_fullest_is_taken() -> None:
    racks = ["big"] * 5 + ["small"] * 2 + ["other"] * 3
    assert nearness([{RACK: name} for name in racks], 2).domain == (RACK, "small")
    assert nearness([{RACK: name} for name in racks], 3).domain == (RACK, "other")
    assert nearness([{RACK: name} for name in racks], 6) == Nearness(keys=(RACK,))


def test_an_nvlink_domain_is_the_narrowest() -> None:
    nodes = [{RACK: "r", CLIQUE: "c1"}] * 3 + [{RACK: "s", CLIQUE: "c2"}] * 3
    assert nearness(nodes, 2).domain == (CLIQUE, "c1")


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [{}, {}],
        [{RACK: "r"}, {}],
        [{RACK: "r"}, {RACK: "r"}],
        [{RACK: "r"}, {RACK: "s"}],
    ],
)
def test_labels_that_tell_nothing_apart_are_passed_over(nodes: list[Labels]) -> None:
    assert nearness(nodes, 2) == Nearness()


def test_one_pod_is_near_to_itself() -> None:
    nodes = [{RACK: "r"}] * 2 + [{RACK: "s"}]
    assert nearness(nodes, 1) == Nearness()
    assert str(nearness(nodes, 1)) == ""


def test_only_known_labels_are_domains_and_the_widest_comes_first() -> None:
    labels = {CLIQUE: "c", RACK: "r", BLOCK: "", "example.com/rack": "x"}
    assert list(domains_of(labels).items()) == [(RACK, "r"), (CLIQUE, "c")]
    assert len(set(LEVELS)) == len(LEVELS)


def test_nodes_that_the_run_avoids_make_no_room() -> None:
    spec = spec_of(2, 2)
    nodes = [
        node_body(f"n{index}", allocatable=EIGHT, labels=LABELS | {RACK: rack})
        for index, rack in enumerate("rrsst")
    ]
    found = capacity(spec.resources, nodes, [])
    chosen = plan(spec=spec, model=ModelShape.for_spec(spec.model), inventory=found.inventory)
    assert found.placement(spec, chosen).near.domain == (RACK, "r")
    assert found.placement(spec, chosen, avoid=("n0",)).near.domain == (RACK, "s")


def test_the_scheduler_is_told_in_its_own_words() -> None:
    near = Nearness(domain=(BLOCK, "1"), keys=(RACK, CLIQUE))
    affinity = Placement(resource="nvidia.com/gpu", near=near, avoid=("bad",)).to_pod("uid-1")[
        "affinity"
    ]
    (preferred,) = affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["preference"]["matchExpressions"] == [
        {"key": BLOCK, "operator": "In", "values": ["1"]}
    ]
    assert "requiredDuringSchedulingIgnoredDuringExecution" in affinity["nodeAffinity"]
    terms = affinity["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [term["podAffinityTerm"]["topologyKey"] for term in terms] == [RACK, CLIQUE]
    weights = [preferred["weight"], *(term["weight"] for term in terms)]
    assert weights == sorted(weights, reverse=True)
    assert all(1 <= weight <= 100 for weight in weights)
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in affinity["podAffinity"]


def test_without_a_preference_no_affinity_but_the_hosts_is_written() -> None:
    assert set(Placement().to_pod("uid-1")["affinity"]) == {"podAntiAffinity"}


def test_a_run_s_status_and_job_tell_where_it_goes() -> None:
    world = World(nodes=())
    for index, place in enumerate("abb"):
        labels = LABELS | zone(place)
        world.put(node_body(f"gpu-{index}", allocatable=EIGHT | EFA, labels=labels))
    body = world.submit()
    body["spec"]["resources"] = {"gpusPerNode": 8, "nodes": {"min": 2, "max": 2}}
    body["spec"]["model"] = {"name": "Qwen/Qwen1.5-7B"}
    body["spec"]["training"] = {"batchSize": 64, "sequenceLength": 2048, "precision": "bf16"}
    world.settle()
    assert "within zone b" in world.status()["plan"]["reason"]
    (job,) = world.of_kind("Job")
    assert job["spec"]["template"]["spec"]["nodeSelector"][ZONE] == "b"


PLACES = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("rst"), st.booleans()), min_size=2, max_size=6
)


@settings(max_examples=8, deadline=None)
@given(places=PLACES, order=st.randoms(use_true_random=False))
def test_order_and_names_of_nodes_never_change_where_a_run_goes(
    places: list[tuple[str, str, bool]], order: Any
) -> None:
    def look(chosen: list[tuple[str, str, bool]], prefix: str) -> tuple[Any, ...]:
        spec = spec_of(2)
        nodes = [
            node_body(
                f"{prefix}{index}",
                allocatable=EIGHT | (EFA if wired else {}),
                labels=LABELS | {ZONE: place, RACK: place + rack},
            )
            for index, (place, rack, wired) in enumerate(chosen)
        ]
        found = capacity(spec.resources, nodes, [])
        made = plan(spec=spec, model=ModelShape.for_spec(spec.model), inventory=found.inventory)
        return made.plan, found.explained(made).reason, found.placement(spec, made)

    shuffled = list(places)
    order.shuffle(shuffled)
    assert look(places, "n") == look(shuffled, "other-")


NODES = st.lists(
    st.fixed_dictionaries({}, optional={key: st.sampled_from("xyz") for key in (BLOCK, RACK)}),
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(nodes=NODES, count=st.integers(1, 8))
def test_a_preferred_domain_has_room_and_keys_are_narrower(nodes: list[Labels], count: int) -> None:
    near = nearness(nodes, count)
    if near.domain is not None:
        key, value = near.domain
        assert sum(node.get(key) == value for node in nodes) >= count
        assert all(LEVELS.index(each) > LEVELS.index(key) for each in near.keys)
    assert nearness(nodes[::-1], count) == near


@settings(max_examples=60, deadline=None)
@given(
    nodes=st.lists(
        st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from(["EFA", PLAIN]),
                  st.integers(1, 8)), min_size=1, max_size=6)
)  # fmt: skip
def test_no_group_promises_more_than_its_nodes_give(nodes: list[tuple[str, str, int]]) -> None:
    shapes = tuple(
        NodeShape(
            name=f"n{index}", product="H100-80GB", devices=devices, zone=place, fabric=fabric,
            network_bytes_per_second=400e9 if fabric == "EFA" else 12.5e9,
            plain_bytes_per_second=12.5e9,
        )
        for index, (place, fabric, devices) in enumerate(nodes)
    )  # fmt: skip
    for group in Inventory(nodes=shapes).groups():
        able = [
            shape for shape in shapes
            if shape.devices >= group.devices and (not group.zone or shape.zone == group.zone)
            and group.fabric in (PLAIN, shape.fabric)
        ]  # fmt: skip
        assert len(able) == group.count
        if group.device.network > 12.5e9:
            assert {shape.fabric for shape in able} == {"EFA"}
            assert len({shape.zone for shape in able}) == 1
