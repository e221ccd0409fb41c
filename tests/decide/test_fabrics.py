"""Which network cards the pods of a run ask for, and what the plan assumes of them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_operator.advice import Advice
from qwenft_operator.fabrics import FABRICS, PLAIN_RATE, Networks, Wire, Wiring, wire_of
from qwenft_operator.nodes import Capacity, capacity
from qwenft_operator.render import Placement
from qwenft_plan.inventory import PLAIN
from qwenft_plan.model import ModelShape
from qwenft_plan.parsing_network import FABRIC_NAMES
from qwenft_plan.planner import Planned, plan
from qwenft_plan.sections import Network
from qwenft_plan.spec import FinetuneSpec
from simulated import node_body
from simulated.builders import spec_mapping

LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "node.kubernetes.io/instance-type": "p5.48xlarge",
}
EIGHT = {"cpu": "96", "memory": "1Ti", "nvidia.com/gpu": "8"}
EFA = {"vpc.amazonaws.com/efa": "32"}
SHARED = {"rdma/hca_shared_devices_a": "63", "rdma/hca_shared_devices_b": "63"}
FUNCTIONS = {"nvidia.com/hostdev": "8"}
ATTACH = {"k8s.v1.cni.cncf.io/networks": "rail-0,rail-1"}


def spec_of(**resources: Any) -> FinetuneSpec:
    wanted = {"nodes": {"min": 2}, "processesPerNode": None, "gpusPerNode": 8} | resources
    training = {"batchSize": 64, "sequenceLength": 2048, "precision": "bf16"}
    kept = {key: value for key, value in wanted.items() if value is not None}
    mapping = spec_mapping(training=training) | {"model": {"name": "Qwen/Qwen1.5-7B"}}
    return FinetuneSpec.from_mapping(mapping | {"resources": kept})


def gpu(name: str, cards: dict[str, str], **more: Any) -> dict[str, Any]:
    return node_body(name, allocatable=EIGHT | cards, labels=LABELS, **more)


def planned(
    *cards: dict[str, str], networks: Networks | None = None, **resources: Any
) -> tuple[Planned, Placement, Capacity]:
    """Plan on one node for each set of cards."""
    spec = spec_of(**resources)
    nodes = [gpu(f"n{index}", each) for index, each in enumerate(cards)]
    found = capacity(spec.resources, nodes, [], networks=networks)
    chosen = plan(spec=spec, model=ModelShape.for_spec(spec.model), inventory=found.inventory)
    return chosen, found.placement(spec, chosen), found


def test_every_row_has_a_source_and_a_name_that_the_spec_knows() -> None:
    assert ("auto", "tcp", *(row.name for row in FABRICS)) == FABRIC_NAMES
    for row in FABRICS:
        assert row.source
        assert re.compile(row.pattern)


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        ("vpc.amazonaws.com/efa", "efa"),
        ("rdma/ib", "rdma"),
        ("rdma/hca_shared_devices_a", "rdma"),
        ("nvidia.com/hostdev", "sriov"),
        ("nvidia.com/sriov-rdma-vf", "sriov"),
        ("openshift.io/mlxrdma", "sriov"),
        ("nvidia.com/gpu", ""),
        ("nvidia.com/mig-1g.10gb", ""),
        ("nvidia.com/gpu.shared", ""),
        ("amd.com/gpu", ""),
        ("hugepages-2Mi", ""),
        ("example.com/rdma/ib", ""),
    ],
)
def test_resources_belong_to_one_fabric_or_none(resource: str, name: str) -> None:
    assert [row.name for row in FABRICS if re.fullmatch(row.pattern, resource)] == [name] * bool(
        name
    )


def test_efa_is_asked_for_whole_and_the_plan_assumes_the_instance_s_rate() -> None:
    chosen, placement, _ = planned(EFA, EFA)
    assert placement.wiring.resources == {"vpc.amazonaws.com/efa": 32}
    assert placement.wiring.env["FI_PROVIDER"] == "efa"
    assert chosen.chosen.work.device.network == 400e9
    assert "(3,200 Gbit/s, instance type p5.48xlarge, over EFA)" in chosen.reason


def test_without_cards_the_plan_assumes_a_pod_s_own_interface() -> None:
    chosen, placement, _ = planned({}, {})
    assert placement.wiring == Wiring()
    assert chosen.chosen.work.device.network == PLAIN_RATE
    assert "(100 Gbit/s, assumed of a pod's own interface, over TCP)" in chosen.reason


def test_of_shared_cards_one_of_each_is_asked_for() -> None:
    chosen, placement, _ = planned(SHARED, SHARED)
    assert placement.wiring.resources == dict.fromkeys(SHARED, 1)
    assert "over InfiniBand or RoCE" in chosen.reason


def test_cards_that_only_some_of_the_planned_nodes_offer_are_not_asked_for() -> None:
    chosen, placement, _ = planned(EFA, {})
    assert placement.wiring.resources == {}
    assert chosen.chosen.group.fabric == PLAIN
    assert chosen.chosen.work.device.network == PLAIN_RATE


def test_nodes_with_cards_may_be_taken_alone() -> None:
    """Four nodes over TCP lose against two that reach each other thirty times as fast, or not."""
    chosen, placement, found = planned(EFA, EFA, {}, {}, nodes={"min": 2, "max": 2})
    assert {group.fabric for group in found.inventory.groups()} == {PLAIN, "EFA"}
    assert chosen.chosen.group.fabric == "EFA"
    assert placement.wiring.resources == {"vpc.amazonaws.com/efa": 32}


def test_nodes_of_two_fabrics_meet_over_tcp() -> None:
    chosen, placement, _ = planned(EFA, SHARED)
    assert (chosen.chosen.group.fabric, placement.wiring.resources) == (PLAIN, {})


def test_cards_of_two_names_are_two_fabrics() -> None:
    chosen, placement, _ = planned({"rdma/ib": "8"}, {"rdma/roce": "8"})
    assert (chosen.chosen.group.fabric, placement.wiring.resources) == (PLAIN, {})
    chosen, placement, _ = planned({"rdma/ib": "8"}, {"rdma/ib": "8"}, {"rdma/roce": "8"},
                                   nodes={"min": 2, "max": 2})  # fmt: skip
    assert chosen.chosen.group.fabric == "InfiniBand or RoCE (rdma/ib)"
    assert placement.wiring.resources == {"rdma/ib": 1}


def test_a_plan_on_one_node_needs_no_cards() -> None:
    _, placement, _ = planned(EFA, nodes={"min": 1, "max": 1})
    assert placement.wiring == Wiring()


def test_fewer_gpus_take_their_share_of_the_cards() -> None:
    wire = wire_of({"vpc.amazonaws.com/efa": "32"}, {"vpc.amazonaws.com/efa": 32.0}, 8,
                   Network(), attached=False)  # fmt: skip
    assert [wire.asked(devices) for devices in (8, 4, 1)] == [
        {"vpc.amazonaws.com/efa": count} for count in (32, 16, 4)
    ]
    few = wire_of({"vpc.amazonaws.com/efa": "1"}, {"vpc.amazonaws.com/efa": 1.0}, 8,
                  Network(), attached=False)  # fmt: skip
    assert few.asked(1) == {"vpc.amazonaws.com/efa": 1}


def test_cards_that_others_have_are_not_counted_on() -> None:
    spec = spec_of()
    taken = {
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n0", "containers": [{"resources": {"requests": EFA}}]},
    }
    nodes = [gpu("n0", EFA), gpu("n1", EFA)]
    found = capacity(spec.resources, nodes, [taken])
    assert [offer.shape.fabric for offer in found.offers] == [PLAIN, "EFA"]


def test_functions_that_need_an_annotation_wait_for_one() -> None:
    _, bare, _ = planned(FUNCTIONS, FUNCTIONS)
    assert bare.wiring == Wiring()
    _, attached, _ = planned(FUNCTIONS, FUNCTIONS, networks=Networks(annotations=ATTACH))
    assert attached.wiring.resources == {"nvidia.com/hostdev": 8}
    assert attached.wiring.annotations == ATTACH


def test_the_request_may_ask_for_tcp() -> None:
    chosen, placement, _ = planned(EFA, EFA, network={"fabric": "tcp"})
    assert placement.wiring.resources == {}
    assert "over TCP" in chosen.reason


def test_the_request_may_name_resource_and_count() -> None:
    asked = {"resource": "rdma/hca_shared_devices_b", "count": 2}
    _, placement, _ = planned(SHARED, SHARED, network=asked)
    assert placement.wiring.resources == {"rdma/hca_shared_devices_b": 2}


def test_a_resource_that_no_row_knows_is_taken_as_asked_for() -> None:
    own = {"example.com/fast": "4"}
    _, placement, _ = planned(own, own, network={"resource": "example.com/fast"})
    assert placement.wiring.resources == {"example.com/fast": 1}


def test_nodes_without_the_fabric_that_is_asked_for_are_left_out_with_the_reason() -> None:
    spec = spec_of(network={"fabric": "rdma"})
    found = capacity(spec.resources, [gpu("a", SHARED), gpu("b", EFA)], [])
    assert [offer.shape.name for offer in found.offers] == ["a"]
    assert found.remark == "left out: b (offers no rdma, which the run asks for)"


def test_the_request_goes_before_the_settings() -> None:
    set_for_all = Networks(wish=Network(fabric="tcp"), env={"NCCL_DEBUG": "INFO"})
    _, default, _ = planned(EFA, EFA, networks=set_for_all)
    assert default.wiring.resources == {}
    _, own, _ = planned(EFA, EFA, networks=set_for_all, network={"fabric": "efa"})
    assert own.wiring.resources == {"vpc.amazonaws.com/efa": 32}
    assert own.wiring.env["NCCL_DEBUG"] == "INFO"


def test_a_rate_that_a_person_gave_counts_whatever_the_cards() -> None:
    chosen, _, _ = planned({}, {}, networks=Networks(rates={"p5.48xlarge": 50e9}))
    assert chosen.chosen.work.device.network == 50e9
    assert "set for p5.48xlarge, over TCP" in chosen.reason


def test_a_slow_network_is_not_made_faster_by_the_assumption() -> None:
    spec = spec_of(gpusPerNode=1)
    labels = {"nvidia.com/gpu.product": "Tesla-T4"}
    nodes = [node_body(name, allocatable=EIGHT, labels=labels) for name in ("a", "b")]
    (group,) = capacity(spec.resources, nodes, []).inventory.groups()
    assert group.device.network == 6e9


def test_what_the_chart_writes_is_read_and_what_is_wrong_is_named() -> None:
    data = {
        "fabric": "efa", "resource": "", "count": 0, "annotations": ATTACH, "env": {"A": "1"},
    }  # fmt: skip
    advice = Advice.of({"network": json.dumps(data)}, {})
    assert advice.warnings == ()
    assert advice.networks == Networks(
        wish=Network(fabric="efa"), annotations=ATTACH, env={"A": "1"}
    )
    wrong = {"fabric": "carrier pigeon", "env": "A=1"}
    advice = Advice.of({"network": json.dumps(wrong)}, {})
    assert advice.networks == Networks()
    assert any("carrier pigeon" in text for text in advice.warnings)
    assert "network.env is no object" in advice.warnings


CARDS = st.sampled_from([{}, EFA, SHARED, FUNCTIONS, EFA | SHARED])


@settings(max_examples=8, deadline=None)
@given(cards=st.lists(CARDS, min_size=2, max_size=5), order=st.randoms(use_true_random=False))
def test_order_and_names_of_nodes_never_change_the_wiring(
    cards: list[dict[str, str]], order: Any
) -> None:
    shuffled = list(cards)
    order.shuffle(shuffled)
    first, second = planned(*cards), planned(*shuffled)
    assert first[0].plan == second[0].plan
    assert first[0].reason == second[0].reason
    assert first[1].wiring == second[1].wiring


@settings(max_examples=60, deadline=None)
@given(
    offered=st.lists(st.integers(1, 64), min_size=1, max_size=4),
    devices=st.integers(1, 8),
)
def test_no_node_is_asked_for_more_than_it_has(offered: list[int], devices: int) -> None:
    key = "vpc.amazonaws.com/efa"
    wires = [wire_of({key: str(n)}, {key: float(n)}, 8, Network(), attached=False) for n in offered]
    asked = Wiring.of(wires, devices, Networks()).resources[key]
    assert 1 <= asked <= min(offered)


def test_no_wires_are_no_wiring() -> None:
    assert Wiring.of([], 8, Networks()).resources == {}
    assert Wiring.of([Wire()], 8, Networks()).resources == {}
