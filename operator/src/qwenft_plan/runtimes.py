"""What differs between training frameworks, as one row of constants each.

Adding a runtime is adding a row. Saved-activation coefficients were measured with saved-tensor
hooks (HF) or follow from the kernels' signatures (fused); see `docs/accuracy.md` for the sources
of the calibrated ones and for the data that no calibration saw.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

__all__ = ["OWN", "RUNTIMES", "Runtime", "find_runtime"]

GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Constants of one framework.

    Memory, in bytes per element of the bf16 activations of one token in one block:
    `saved_hidden` × hidden, `saved_attention` × (query + key/value widths), `saved_ffn` × ffn.
    `logit`: bytes per logit at the peak of loss and its gradient. `states`: how weights, gradients
    and optimizer are kept (`sharded` fp32 masters, `megatron` bf16 weights with fp32 gradients,
    `deepspeed`). `gathered_blocks`: blocks held whole at once under full sharding.
    `allocator`: reserved over allocated. `overhead`: bytes outside the allocator.

    Time: `matmul` and `attention` are fractions of the device's achievable rate; `hidden_traffic`
    and `ffn_traffic` are bytes through HBM per element, token and block, forward and backward
    together, of everything that is not a matrix multiplication; `launch` seconds that the host
    needs to start one block's forward; `tp_exposed` and `shard_exposed` fractions of
    communication that computation does not hide; `step` seconds once per optimizer step.
    """

    name: str
    words: str
    states: str
    saved_hidden: float
    saved_attention: float = 4.0
    saved_ffn: float = 8.0
    logit: float = 14.0
    sequence_parallel: bool = True
    gathered_blocks: float = 2.5
    allocator: float = 1.046
    overhead: float = 1.5 * GIB
    foreach: float = 2.0
    matmul: float = 0.85
    attention: float = 0.55
    hidden_traffic: float = 60.0
    ffn_traffic: float = 24.0
    launch: float = 400e-6
    tp_exposed: float = 1.0
    shard_exposed: float = 0.15
    step: float = 5e-3
    zero: int = 3
    flash: bool = True


OWN = Runtime(
    name="qwenft",
    words=r"qwenft",
    states="sharded",
    saved_hidden=16.0,
    saved_ffn=8.0,
    logit=14.0,
)
"""The product's own trainer: FSDP2, torch-native tensor and pipeline parallelism, HF modules."""

MEGATRON = Runtime(
    name="megatron",
    words=r"megatron|nemo|nanotron|internevo|primus|mcore",
    states="megatron",
    saved_hidden=8.0,
    saved_ffn=6.0,
    logit=6.0,
    hidden_traffic=40.0,
    ffn_traffic=16.0,
    launch=250e-6,
    zero=1,
)

TITAN = Runtime(
    name="torchtitan",
    words=r"torchtitan|fsdp2|torchtune|fms|automodel|fsdp",
    states="sharded",
    saved_hidden=16.0,
    saved_ffn=8.0,
)

COMPOSER = replace(TITAN, name="composer", words=r"composer|llm-?foundry|fsdp1|mosaic")

DEEPSPEED = replace(
    TITAN,
    name="deepspeed",
    words=r"deepspeed|hf|hugging|swift|xtuner|colossal|trainer|transformers|llama-?factory",
    states="deepspeed",
    zero=0,
)

RUNTIMES: tuple[Runtime, ...] = (OWN, MEGATRON, COMPOSER, TITAN, DEEPSPEED)
"""In order of recognition: the first whose words occur in the text wins."""


def find_runtime(text: str) -> Runtime:
    """Return the runtime that free text names; the product's own where it names none."""
    lowered = text.lower()
    for runtime in RUNTIMES:
        if re.search(runtime.words, lowered):
            return runtime
    return OWN
