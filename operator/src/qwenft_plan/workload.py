"""The two halves of a question to the estimators: what is computed, and how it is laid out."""

from __future__ import annotations

from dataclasses import dataclass

from qwenft_plan.hardware import Device
from qwenft_plan.model import ModelShape
from qwenft_plan.runtimes import Runtime
from qwenft_plan.sections import MATRICES

__all__ = ["PACKED_BYTES", "Layout", "Method", "Workload"]

PACKED_BYTES = 0.5625
"""Bytes of a weight in the own trainer's 4 bits: half a byte, and one fp32 scale for 64 of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What is trained and with which optimizer; only ever what the user asked for.

    `kind`: full, lora (adapters over frozen bf16 weights), qlora (over 4-bit weights).
    `rank` and `adapted`: rank of the adapters, the adapted matrices of every block.
    """

    kind: str = "full"
    optimizer: str = "adamw"
    offload_optimizer: bool = False
    rank: int = 8
    adapted: tuple[str, ...] = MATRICES


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is computed, on which kind of device.

    `precision`: bf16_mixed (fp32 master weights), bf16_pure, fp32, fp8 (fp8 matrix
    multiplications, the rest bf16_mixed). `per_node`: devices used in each node.
    """

    model: ModelShape
    runtime: Runtime
    device: Device
    method: Method = Method()
    precision: str = "bf16_mixed"
    sequence_length: int
    per_node: int
    fused_loss: bool | None = None
    flash_attention: bool | None = None
    compiled: bool = False

    @property
    def flash(self) -> bool:
        """Whether attention never writes its scores to memory."""
        return self.runtime.flash if self.flash_attention is None else self.flash_attention

    @property
    def on_host(self) -> bool:
        """Whether the own trainer keeps shards in the host's memory, apart from the device's."""
        kept = self.method.offload_optimizer and self.runtime.always_wraps
        return kept and self.device.vendor != "cpu"

    @property
    def packs(self) -> bool:
        """Whether the own trainer keeps the blocks' matrices in 4 bits."""
        return self.method.kind == "qlora" and self.runtime.always_wraps

    @property
    def block_bytes(self) -> float:
        """Bytes of one weight of a block as it is gathered."""
        return PACKED_BYTES if self.packs else float(self.element_bytes)

    @property
    def element_bytes(self) -> int:
        """Bytes of one activation element."""
        return 4 if self.precision == "fp32" else 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How one optimizer step is spread over the devices.

    `accumulation` counts the micro-batches of a step per data-parallel rank (under pipeline
    parallelism they are the pipeline's micro-batches). `virtual_stages`: model chunks per pipeline
    rank. `zero`: what `dp_shard` ranks share: 1 optimizer, 2 and
    gradients, 3 and weights; 0 nothing. `reshard_after_forward` as in the plan file.
    """

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    tp: int = 1
    cp: int = 1
    micro_batch: int = 1
    accumulation: int = 1
    checkpointing: str = "none"
    schedule: str = "1F1B"
    virtual_stages: int = 1
    zero: int = 3
    reshard_after_forward: bool = True

    @property
    def dp(self) -> int:
        """Data-parallel ranks, replicated and sharded together."""
        return self.dp_replicate * self.dp_shard

    @property
    def world_size(self) -> int:
        """Devices in use."""
        return self.pp * self.dp * self.tp * self.cp

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step."""
        return self.dp * self.micro_batch * self.accumulation
