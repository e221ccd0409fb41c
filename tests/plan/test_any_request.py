"""What a plan holds to for every request and every mix of nodes that can be drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from planning import request
from planning.drawn import nodes, requests, scaled
from qwenft_plan.errors import Infeasible
from qwenft_plan.explain import table
from qwenft_plan.host import pod_host_bytes
from qwenft_plan.inventory import Inventory, NodeShape
from qwenft_plan.memory import SAFETY
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import Plan
from qwenft_plan.planner import Planned, plan

NAMES = ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen1.5-4B", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-72B")
PLANS = settings(max_examples=20, deadline=None)
names = st.sampled_from(NAMES)
factors = st.sampled_from((1.1, 2.0, 10.0))


def outcome(name: str, sections: dict[str, Any], inventory: Inventory) -> Planned | None:
    """Return the plan, or None where nothing fits (with reasons that can be read)."""
    try:
        return plan(
            spec=request(name, **sections), model=ModelShape.known(name), inventory=inventory
        )
    except Infeasible as error:
        assert error.reasons
        assert all(error.reasons)
        return None


@PLANS
@given(name=names, sections=requests(), shapes=nodes())
def test_a_plan_is_consistent_and_fits(
    name: str, sections: dict[str, Any], shapes: tuple[NodeShape, ...]
) -> None:
    found = outcome(name, sections, Inventory(nodes=shapes))
    if found is None:
        return
    chosen, made = found.chosen, found.plan
    assert made.pp * made.dp_replicate * made.dp_shard * made.tp == made.world_size
    assert made.nodes * made.processes_per_node == made.world_size
    assert made.global_batch_size == sections["training"]["batchSize"]
    least, most = (sections["resources"]["nodes"][key] for key in ("min", "max"))
    assert least <= made.nodes <= most
    able = [node for node in shapes if node.devices >= made.processes_per_node]
    assert len(able) >= made.nodes
    assert chosen.peak <= SAFETY * chosen.work.device.memory
    assert all(
        math.isfinite(value) and value > 0
        for value in (
            found.predicted.memory_gib,
            found.predicted.tokens_per_second,
            found.predicted.mfu,
        )
    )
    asked = {"method": "full", "optimizer": "adamw", "offloadOptimizer": False}
    asked |= {key: sections["training"][key] for key in asked if key in sections["training"]}
    assert (made.method, made.optimizer, made.offload_optimizer) == tuple(asked.values())
    if made.offload_optimizer and not chosen.group.is_cpu:
        host = SAFETY * (chosen.group.host_memory or math.inf)
        assert pod_host_bytes(made, ModelShape.known(name)) <= host
    assert Plan.from_json(made.to_json()) == made
    assert found.summary in table(found)


@PLANS
@given(
    name=names,
    sections=requests(),
    shapes=nodes(),
    factor=factors,
    field=st.sampled_from(("network_bytes_per_second", "link_bytes_per_second")),
)
def test_faster_links_never_slow_a_plan(
    name: str,
    sections: dict[str, Any],
    shapes: tuple[NodeShape, ...],
    factor: float,
    field: str,
) -> None:
    inventory = Inventory(nodes=shapes)
    before = outcome(name, sections, inventory)
    after = outcome(name, sections, scaled(inventory, field, factor))
    assert (before is None) == (after is None)
    if before is not None and after is not None:
        # The simplest among plans within two percent of the fastest is taken.
        assert after.chosen.tokens_per_second >= 0.98 * before.chosen.tokens_per_second


@PLANS
@given(name=names, sections=requests(), shapes=nodes())
def test_one_more_node_never_turns_fits_into_does_not_fit(
    name: str, sections: dict[str, Any], shapes: tuple[NodeShape, ...]
) -> None:
    more = (*shapes, replace(shapes[0], name="one-more"))
    if outcome(name, sections, Inventory(nodes=shapes)) is not None:
        assert outcome(name, sections, Inventory(nodes=more)) is not None
