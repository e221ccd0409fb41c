"""How each part of a decoder layer is split over tensor-parallel ranks.

Between the layers every rank holds some of the *positions* (sequence parallelism), inside
attention and MLP some of the *heads* and hidden units. The styles below say where one becomes the
other; all parameters end up on the tensor-parallel mesh, so norms and clipping see one kind.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
)

NORM = SequenceParallel()
HEAD_NORM = SequenceParallel(sequence_dim=2, use_local_output=True)
"""Normalisation of each head by itself: what is split is dimension 2 of [B, T, heads, dim]."""


class EmbeddingByVocabulary(RowwiseParallel):
    """The embedding split by token id, its sum scattered over the positions."""

    def __init__(self) -> None:
        super().__init__(input_layouts=Replicate(), output_layouts=Shard(1))

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        split = super()._apply(module, device_mesh)
        # The scattered sum is a tensor still under way, whose gradient a compiled layer drops
        # silently (torch 2.15); a copy is an ordinary tensor.
        split.register_forward_hook(lambda _module, _inputs, output: output.clone())
        return split


class HeadByVocabulary(ParallelStyle):
    """The output projection split by token id; the loss is reduced over the shards."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, device_mesh, _split_rows, _gather_positions)


class ReplicatedHeads(ParallelStyle):
    """A key or value projection with fewer heads than ranks: computed everywhere, one head kept.

    Each rank's gradient covers only the head it kept, so gradients are partial sums.
    """

    def __init__(self, heads: int, head_dim: int) -> None:
        self.heads = heads
        self.head_dim = head_dim

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        rank = device_mesh.get_local_rank()
        mine = rank * self.heads // device_mesh.size()
        keep = slice(mine * self.head_dim, (mine + 1) * self.head_dim)

        def kept(_module: nn.Module, output: DTensor, _mesh: DeviceMesh) -> Any:
            return output.to_local(grad_placements=[Partial()])[..., keep]

        return distribute_module(module, device_mesh, output_fn=kept)


class Whole(ParallelStyle):
    """A matrix that every rank holds in full and applies to inputs that are whole, too."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, device_mesh)


WHOLE = Whole()
POSITIONS = SequenceParallel(use_local_output=True)
"""A matrix that every rank holds in full and applies to its positions."""
EMBEDDING = EmbeddingByVocabulary()
HEAD = HeadByVocabulary()


def layer_styles(layer: nn.Module, mesh: DeviceMesh) -> dict[str, ParallelStyle]:
    """Return the style of every part of a decoder layer, by its name in the layer."""
    attention: Any = layer.self_attn
    key_value = _key_value_style(attention, mesh)
    styles: dict[str, ParallelStyle] = {
        "input_layernorm": NORM,
        "self_attn": PrepareModuleInput(
            input_kwarg_layouts={"hidden_states": Shard(1)},
            desired_input_kwarg_layouts={"hidden_states": Replicate()},
        ),
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": key_value,
        "self_attn.v_proj": key_value,
        "self_attn.o_proj": RowwiseParallel(output_layouts=Shard(1)),
        "post_attention_layernorm": NORM,
        "mlp": PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(output_layouts=Shard(1)),
    }
    if hasattr(attention, "q_norm"):
        styles |= {"self_attn.q_norm": HEAD_NORM, "self_attn.k_norm": HEAD_NORM}
    return _with_adapters(layer, styles)


def _with_adapters(
    layer: nn.Module, styles: Mapping[str, ParallelStyle]
) -> dict[str, ParallelStyle]:
    """Return the styles of adapted matrices' three parts in place of those of plain ones.

    Where the base is split by output, so is B; where by input, so is A, whose sum over the ranks
    is scattered over the positions as the base's is. What is left of the two is whole everywhere.
    """
    found: dict[str, ParallelStyle] = {}
    for name, style in styles.items():
        if not hasattr(layer.get_submodule(name), "base_layer"):
            found[name] = style
            continue
        first, second = f"{name}.lora_A.default", f"{name}.lora_B.default"
        by_input = isinstance(style, RowwiseParallel)
        found |= {
            f"{name}.base_layer": style,
            first: style if by_input else WHOLE,
            second: POSITIONS if by_input else style,
        }
    return found


def attach_local_heads(attention: nn.Module, mesh: DeviceMesh) -> None:
    """Tell an attention how many of its own query heads share one of its own key heads."""
    layer: Any = attention
    heads, key_heads = _heads(layer)
    local_key_heads = max(1, key_heads // mesh.size())
    layer.num_key_value_groups = heads // mesh.size() // local_key_heads


def _key_value_style(attention: nn.Module, mesh: DeviceMesh) -> ParallelStyle:
    layer: Any = attention
    _, key_heads = _heads(layer)
    if key_heads % mesh.size() == 0:
        return ColwiseParallel()
    return ReplicatedHeads(key_heads, int(layer.head_dim))


def _heads(attention: Any) -> tuple[int, int]:
    config = attention.config
    return int(config.num_attention_heads), int(config.num_key_value_heads)


def _split_rows(_name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    for name, value in list(module.named_parameters(recurse=False)):
        split = distribute_tensor(value, mesh, [Shard(0)], src_data_rank=None)
        module.register_parameter(name, nn.Parameter(split))


def _gather_positions(_module: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh) -> Any:
    hidden, *rest = inputs
    if not isinstance(hidden, DTensor):
        hidden = DTensor.from_local(hidden, mesh, [Shard(1)], run_check=False)
    return (hidden.redistribute(placements=[Replicate()]), *rest)


def gathered(logits: Tensor) -> Tensor:
    """Return vocabulary-sharded logits as one plain tensor."""
    with torch.no_grad():
        return logits.full_tensor() if isinstance(logits, DTensor) else logits
