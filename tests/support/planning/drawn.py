"""Models, layouts, devices and requests drawn at random for properties."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from planning.works import DEVICE
from qwenft_plan.hardware import CPU, DEVICES, GIB, Device
from qwenft_plan.inventory import Inventory, NodeShape
from qwenft_plan.model import ModelShape
from qwenft_plan.runtimes import RUNTIMES
from qwenft_plan.sections import MATRICES
from qwenft_plan.workload import Layout, Method, Workload

SCHEDULES = ("GPipe", "1F1B", "Interleaved1F1B", "ZBVZeroBubble")
PRODUCTS = ("H100", "A100-40G", "L4", "MI300X", "cpu-16G")
_powers = st.sampled_from((1, 2, 4, 8))


@st.composite
def models(draw: st.DrawFn) -> ModelShape:
    """Return a dense model of anything from a toy to several hundred billion parameters."""
    kv_heads = draw(st.sampled_from((1, 2, 4, 8)))
    heads = kv_heads * draw(_powers)
    head_dim = draw(st.sampled_from((8, 64, 128)))
    return ModelShape(
        name="drawn",
        hidden=draw(st.sampled_from((64, 896, 4096, 16384))),
        layers=draw(st.sampled_from((1, 4, 24, 80))),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=draw(st.sampled_from((128, 4864, 53248))),
        vocab=draw(st.sampled_from((256, 32000, 152064))),
        tied=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        gated=draw(st.booleans()),
    )


devices: st.SearchStrategy[Device] = st.sampled_from((*DEVICES, CPU, DEVICE))

methods: st.SearchStrategy[Method] = st.builds(
    Method,
    kind=st.sampled_from(("full", "lora", "qlora")),
    optimizer=st.sampled_from(("adamw", "adamw8bit")),
    offload_optimizer=st.booleans(),
    rank=st.sampled_from((1, 8, 64)),
    adapted=st.integers(1, 7).map(lambda count: MATRICES[:count]),
)

works: st.SearchStrategy[Workload] = st.builds(
    Workload,
    model=models(),
    runtime=st.sampled_from(RUNTIMES),
    device=devices,
    method=methods,
    precision=st.sampled_from(("bf16_mixed", "bf16_pure", "fp32", "fp8")),
    sequence_length=st.sampled_from((2, 512, 4096, 131072)),
    per_node=st.sampled_from((1, 3, 8)),
    fused_loss=st.sampled_from((None, True, False)),
    flash_attention=st.sampled_from((None, True, False)),
    compiled=st.booleans(),
)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Return a layout; pipelines have micro-batches enough for their stages."""
    pp = draw(_powers)
    return Layout(
        pp=pp,
        dp_replicate=draw(_powers),
        dp_shard=draw(st.sampled_from((1, 2, 8, 64))),
        tp=draw(_powers),
        cp=draw(st.sampled_from((1, 2))),
        micro_batch=draw(st.sampled_from((1, 2, 16))),
        accumulation=pp * draw(st.sampled_from((1, 2, 8))),
        checkpointing=draw(st.sampled_from(("none", "selective", "full"))),
        schedule=draw(st.sampled_from(SCHEDULES)),
        virtual_stages=draw(st.sampled_from((1, 2))) if pp > 1 else 1,
        zero=draw(st.sampled_from((0, 1, 2, 3))),
    )


@st.composite
def nodes(draw: st.DrawFn) -> tuple[NodeShape, ...]:
    """Return one to five nodes of a few products, some without a free device or free memory."""
    shapes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(PRODUCTS),
                st.sampled_from((0, 1, 2, 4, 8)),
                st.sampled_from((None, 32 * GIB, 2048 * GIB)),
            ),
            min_size=1,
            max_size=5,
        )
    )
    return tuple(
        NodeShape(name=f"node-{index}", product=product, devices=count, host_memory_bytes=host)
        for index, (product, count, host) in enumerate(shapes)
    )


lighter: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    (
        {},
        {"method": "lora"},
        {"method": "qlora"},
        {"optimizer": "adamw8bit"},
        {"method": "lora", "optimizer": "adamw8bit"},
        {"offloadOptimizer": True},
    )
)
"""Fields of `training` that ask for a method; each goes with every other field drawn here."""


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Return the sections of a request beside its model."""
    least = draw(st.sampled_from((1, 1, 1, 2)))
    return {
        "training": {
            "batchSize": draw(st.sampled_from((1, 4, 6, 64))),
            "sequenceLength": draw(st.sampled_from((128, 2048, 8192))),
            "precision": draw(st.sampled_from(("bf16", "fp32"))),
            **draw(lighter),
        },
        "resources": {"nodes": {"min": least, "max": least + draw(st.sampled_from((0, 1, 4)))}},
    }


def scaled(inventory: Inventory, field: str, factor: float) -> Inventory:
    """Return the inventory with one property of every node's device multiplied."""
    attribute = {
        "device_memory_bytes": "memory",
        "network_bytes_per_second": "network",
        "link_bytes_per_second": "link",
    }[field]
    whole = int if field == "device_memory_bytes" else float
    return Inventory(
        nodes=tuple(
            replace(node, **{field: whole(getattr(node.device, attribute) * factor)})  # type: ignore[arg-type]
            for node in inventory.nodes
        )
    )
