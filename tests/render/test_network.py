"""What a pod gets to reach its peers by: cards, variables, annotations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwenft_operator.fabrics import Wiring
from qwenft_operator.render import Placement, render
from qwenft_operator.run import Owner
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec
from simulated.builders import spec_mapping

PLAN = Plan(
    world_size=16, nodes=2, processes_per_node=8, pp=1, dp_replicate=2, dp_shard=8, tp=1,
    micro_batch_size=4, gradient_accumulation_steps=1, global_batch_size=64, sequence_length=2048,
    precision="bf16",
)  # fmt: skip
CPU_PLAN = Plan(
    world_size=2, nodes=2, processes_per_node=1, pp=1, dp_replicate=2, dp_shard=1, tp=1,
    micro_batch_size=4, gradient_accumulation_steps=1, global_batch_size=8, sequence_length=64,
)  # fmt: skip


def template_of(
    plan: Plan, *, placement: Placement | None = None, **sections: Any
) -> dict[str, Any]:
    mapping = spec_mapping(**sections)
    owner = Owner(name="tiny", namespace="team", uid="1234-abcd", spec=mapping)
    spec = FinetuneSpec.from_mapping(mapping)
    job = render(spec, plan, owner, 3, placement=placement)[-1]
    template: dict[str, Any] = job["spec"]["template"]
    return template


def container_of(template: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = template["spec"]["containers"][0]
    return container


def environment_of(template: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in container_of(template)["env"]}


GPUS = {"resources": {"nodes": {"min": 2}, "processesPerNode": None, "gpusPerNode": 8}}
WIRED = Placement(
    resource="nvidia.com/gpu",
    wiring=Wiring(
        resources={"vpc.amazonaws.com/efa": 32},
        env={"FI_PROVIDER": "efa", "NCCL_SOCKET_IFNAME": "eth1"},
        annotations={"k8s.v1.cni.cncf.io/networks": "rail"},
    ),
)


def test_cards_are_requested_and_limited_beside_the_devices() -> None:
    asked = container_of(template_of(PLAN, placement=WIRED, **GPUS))["resources"]
    assert asked["requests"] == asked["limits"]
    assert asked["limits"] == {"nvidia.com/gpu": "8", "vpc.amazonaws.com/efa": "32"}


def test_the_network_s_variables_go_before_the_default_and_after_the_user_s() -> None:
    plain = environment_of(template_of(PLAN, **GPUS))
    assert (plain["NCCL_SOCKET_IFNAME"], plain["GLOO_SOCKET_IFNAME"]) == ("eth0", "eth0")
    wired = environment_of(template_of(PLAN, placement=WIRED, **GPUS))
    assert (wired["NCCL_SOCKET_IFNAME"], wired["FI_PROVIDER"]) == ("eth1", "efa")
    own = {"env": [{"name": "NCCL_SOCKET_IFNAME", "value": "net1"}]}
    assert (
        environment_of(template_of(PLAN, placement=WIRED, trainer=own, **GPUS))[
            "NCCL_SOCKET_IFNAME"
        ]
        == "net1"
    )


@pytest.mark.parametrize(
    "alone",
    [CPU_PLAN, replace(PLAN, nodes=1, world_size=8, dp_replicate=1, gradient_accumulation_steps=2)],
)
def test_ranks_that_no_network_joins_are_told_of_none(alone: Plan) -> None:
    asked = {} if alone is CPU_PLAN else GPUS
    assert (
        not {"NCCL_SOCKET_IFNAME", "FI_PROVIDER"}
        & environment_of(template_of(alone, **asked)).keys()
    )


def test_annotations_that_attach_cards_go_to_the_pods() -> None:
    template = template_of(PLAN, placement=WIRED, **GPUS)
    assert template["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] == "rail"
