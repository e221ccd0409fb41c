"""What holds for every request: products, monotony, independence of order, equal bytes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planning.drawn import lighter
from qwenft_plan.cost import step_time
from qwenft_plan.errors import Infeasible, SpecError
from qwenft_plan.estimate import estimate_line, estimate_row
from qwenft_plan.inventory import Inventory, NodeShape
from qwenft_plan.memory import SAFETY, peak_memory
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan
from qwenft_plan.runtimes import RUNTIMES
from qwenft_plan.spec import FinetuneSpec
from qwenft_plan.workload import Layout, Workload

NAMES = ("Qwen/Qwen1.5-7B", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-8B")
PRODUCTS = ("H100-80G", "A100-40G", "MI300X", "L4", "cpu")
POWERS = st.sampled_from((1, 2, 4, 8))
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

requests = st.fixed_dictionaries(
    {
        "name": st.sampled_from(NAMES),
        "batch": st.sampled_from((8, 32, 96)),
        "length": st.sampled_from((512, 2048)),
        "nodes": st.integers(1, 3),
        "devices": st.sampled_from((1, 2, 4)),
        "product": st.sampled_from(PRODUCTS),
        "method": lighter,
    }
)
layouts = st.builds(
    Layout,
    pp=POWERS,
    dp_replicate=POWERS,
    dp_shard=POWERS,
    tp=POWERS,
    micro_batch=POWERS,
    accumulation=POWERS,
    checkpointing=st.sampled_from(("none", "selective", "full")),
    zero=st.integers(0, 3),
)


def spec_of(request: dict[str, Any]) -> FinetuneSpec:
    return FinetuneSpec.from_mapping(
        {
            "model": {"name": request["name"]},
            "dataset": {"path": "/data/dataset.pt"},
            "output": {"path": "/data/out"},
            "training": {
                "batchSize": request["batch"],
                "sequenceLength": request["length"],
                **request["method"],
            },
        }
    )


def inventory_of(request: dict[str, Any]) -> Inventory:
    return Inventory.parse(f"{request['nodes']}x{request['devices']}x{request['product']}")


def planned(request: dict[str, Any], inventory: Inventory | None = None) -> Planned | None:
    model = ModelShape.known(request["name"])
    nodes = inventory or inventory_of(request)
    try:
        return plan(spec=spec_of(request), model=model, inventory=nodes)
    except Infeasible:
        return None


@few
@given(requests)
def test_degrees_multiply_to_the_world_and_batches_to_the_batch(request: dict[str, Any]) -> None:
    found = planned(request)
    if found is not None:
        chosen = found.plan
        assert chosen.pp * chosen.dp_replicate * chosen.dp_shard * chosen.tp == chosen.world_size
        assert chosen.nodes * chosen.processes_per_node == chosen.world_size
        assert chosen.global_batch_size == request["batch"]
        assert found.chosen.peak <= SAFETY * found.chosen.work.device.memory


@few
@given(requests, st.floats(1.0, 4.0))
def test_more_memory_never_turns_fits_into_does_not(request: dict[str, Any], factor: float) -> None:
    inventory = inventory_of(request)
    larger = Inventory(
        nodes=tuple(
            replace(node, device_memory_bytes=int(node.device.memory * factor))
            for node in inventory.nodes
        )
    )
    before, after = planned(request, inventory), planned(request, larger)
    assert before is None or after is not None
    if before is not None and after is not None:
        least = 0.98 * before.chosen.tokens_per_second  # the simplest within two percent wins
        assert after.chosen.tokens_per_second >= least


@few
@given(requests, st.randoms(use_true_random=False))
def test_order_and_names_of_nodes_do_not_matter(request: dict[str, Any], random: Any) -> None:
    nodes = [replace(n, name=f"n{random.random()}") for n in inventory_of(request).nodes]
    nodes.append(NodeShape(name="odd", product=request["product"], devices=1))
    shuffled = random.sample(nodes, len(nodes))
    first, second = (planned(request, Inventory(nodes=tuple(n))) for n in (nodes, shuffled))
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert first.plan.to_json() == second.plan.to_json()
        assert first.reason == second.reason


@few
@given(requests)
def test_equal_input_gives_equal_bytes(request: dict[str, Any]) -> None:
    first, second = planned(request), planned(request)
    assert first == second


@settings(max_examples=200, deadline=None)
@given(layouts, st.sampled_from(RUNTIMES), st.floats(1.0, 8.0))
def test_faster_links_never_slow_a_layout(layout: Layout, runtime: Any, factor: float) -> None:
    device = Inventory.parse("1x8xH100").nodes[0].device
    work = Workload(
        model=ModelShape.known("Qwen/Qwen1.5-7B"),
        runtime=runtime,
        device=device,
        sequence_length=1024,
        per_node=8,
    )
    faster = replace(device, link=device.link * factor, network=device.network * factor)
    quick = step_time(replace(work, device=faster), layout).total
    assert quick <= step_time(work, layout).total * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(layouts, st.sampled_from(RUNTIMES), st.integers(2, 65536))
def test_every_estimate_is_finite_and_positive(layout: Layout, runtime: Any, length: int) -> None:
    work = Workload(
        model=ModelShape.known("Qwen/Qwen3-8B"),
        runtime=runtime,
        device=Inventory.parse("1x8xMI300X").nodes[0].device,
        sequence_length=length,
        per_node=8,
    )
    memory, seconds = peak_memory(work, layout).total, step_time(work, layout).total
    assert math.isfinite(memory)
    assert math.isfinite(seconds)
    assert min(memory, seconds) > 0


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
rows = st.dictionaries(
    st.sampled_from(
        ("model", "params_b", "gpu", "n_gpus", "seq_len", "global_batch", "micro_batch", "tp", "pp",
         "dp", "fsdp", "hidden", "layers", "heads", "kv_heads", "ffn", "vocab", "precision")
    ),
    scalars,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(rows)
def test_any_row_gets_an_estimate_or_a_named_error(row: dict[str, Any]) -> None:
    answer = estimate_row({"gpu": "H100", "model": "Qwen2.5-7B", **row})
    if "error" in answer:
        assert ":" in answer["error"]
    else:
        assert math.isfinite(answer["tokens_per_s_per_gpu"])
        assert answer["tokens_per_s_per_gpu"] > 0
        assert answer["memory_gb"] > 0
        assert isinstance(answer["fits"], bool)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_line_gets_one_json_line(line: str) -> None:
    answer = estimate_line(line)
    assert "\n" not in answer
    assert isinstance(json.loads(answer), dict)


def test_a_bad_degree_is_the_user_s_and_an_impossible_one_the_cluster_s() -> None:
    request = {"name": NAMES[0], "batch": 8, "length": 512, "method": {}}
    spec = spec_of(request)
    model, one = ModelShape.known(NAMES[0]), Inventory.parse("1x1xH100")
    tensor = replace(spec, parallelism=replace(spec.parallelism, tensor=3))
    with pytest.raises(SpecError):
        plan(spec=tensor, model=model, inventory=one)
    with pytest.raises(Infeasible):
        plan(spec=spec, model=model, inventory=one)
