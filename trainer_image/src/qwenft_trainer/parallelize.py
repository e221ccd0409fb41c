"""A stage, made parallel: products in fp8, tensors split, checkpointing, compilation, sharding.

Each step wraps what the steps before it made, so the order is the meaning: recomputation must
repeat the tensor-parallel collectives, the compiler must see the recomputation, and the sharding's
gathers must stay outside of both.
"""

from functools import partial

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor.parallel import parallelize_module

from qwenft_plan.plan import Plan
from qwenft_trainer.adapters import still_frozen
from qwenft_trainer.fp8 import multiply_in_fp8
from qwenft_trainer.mesh import sharding_mesh
from qwenft_trainer.model import Stage
from qwenft_trainer.recompute import recompute
from qwenft_trainer.tensor_parallel import EMBEDDING, HEAD, NORM, attach_local_heads, layer_styles


def parallelize(
    stage: Stage, plan: Plan, mesh: DeviceMesh, *, compile_backend: str | None
) -> Stage:
    """Apply the plan to a stage on the meta device, in place."""
    if plan.precision == "fp8":
        multiply_in_fp8(stage)
    if plan.tp > 1:
        with still_frozen(stage):
            split_tensors(stage, mesh["tp"])
    if plan.activation_checkpointing != "none":
        recompute(stage, selective=plan.activation_checkpointing == "selective")
    if compile_backend is not None:
        for layer in stage.layers():
            # Split layers are compiled once for each length: torch 2.15 has a bug with free ones.
            layer.compile(backend=compile_backend, dynamic=plan.tp == 1)
    shard(stage, plan, mesh)
    return stage


def split_tensors(stage: Stage, mesh: DeviceMesh) -> None:
    """Split heads, hidden units and vocabulary over the mesh, and positions between the layers."""
    for layer in stage.layers():
        attach_local_heads(layer.self_attn, mesh)
        parallelize_module(layer, mesh, layer_styles(layer, mesh))
    if stage.part.first:
        parallelize_module(stage.model, mesh, {"embed_tokens": EMBEDDING})
    if stage.part.last:
        parallelize_module(stage, mesh, {"model.norm": NORM, "lm_head": HEAD})
    stage.tie()


def shard(stage: Stage, plan: Plan, mesh: DeviceMesh) -> None:
    """Shard parameters, gradients and optimizer state over the data-parallel ranks, layer by layer.

    Gradients are summed, never averaged: the loss is divided by the step's tokens before.
    """
    compute = None if plan.precision == "fp32" else torch.bfloat16
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    frozen = {value for value in stage.parameters() if not value.requires_grad}
    apply = partial(
        fully_shard,
        # Frozen weights that no ranks share stay as they are: they need neither copy nor gather.
        ignored_params=frozen if plan.dp_shard == 1 else None,
        mesh=sharding_mesh(mesh),
        mp_policy=policy,
        offload_policy=_offload(plan),
    )
    # A pipeline runs a layer many times a step, where gathering it each time would dominate.
    freed = plan.pp == 1 and plan.dp_shard > 1 and plan.reshard_after_forward
    *inner, last = stage.layers()
    for layer in inner:
        apply(layer, reshard_after_forward=freed)
    # The last layer's backward follows its forward at once, and so does the head's.
    apply(last, reshard_after_forward=False)
    apply(stage, reshard_after_forward=False)
    for module in stage.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(enable=True)


def _offload(plan: Plan) -> OffloadPolicy:
    """Return where shards, their gradients and the optimizer's state are kept between uses."""
    if not plan.offload_optimizer:
        return OffloadPolicy()
    return CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
