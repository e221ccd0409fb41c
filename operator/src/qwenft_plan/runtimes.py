"""What differs between training frameworks, as one row of constants each.

Adding a runtime is adding a row. Saved-activation coefficients were measured with saved-tensor
hooks on HF modules or follow from the fused kernels' signatures; the speed constants are
calibrated by source (`tests/support/accuracy/calibrate.py`), and `docs/accuracy.md` reports the
sources that no calibration saw beside those it did, and every constant with its unit and origin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

__all__ = ["CONSTANTS", "MEGATRON_EARLY", "OWN", "PLAIN", "RUNTIMES", "Runtime", "find_runtime"]

GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Constants of one framework; `words` is the pattern that recognises it.

    Memory. Bytes that autograd keeps per token and block in bf16: `saved_hidden` × hidden +
    `saved_attention` × (query + key/value widths) + `saved_ffn` × ffn (`saved_plain` where the
    block has no gate). `keeps_gathered`: inputs gathered from sequence-parallel ranks are kept
    too. `selective`: which of them selective checkpointing keeps: `products` (outputs of all matrix
    multiplications), `half` (of every other one), `attention` (all but attention scores).
    `logit`: bytes per logit at the peak of the loss; `split_logit`: the same where tensor
    parallel ranks split the vocabulary (16: torch's `loss_parallel` holds log-probabilities, their
    exponentials, the sum and the gradient in fp32). `sharded`: fp32 master weights, no bf16
    copy. `gradient`, `optimizer`: bytes per parameter in mixed precision. `kept_gradients`:
    gradients live in a buffer that is never freed. `step_temporary`: bytes per parameter of the
    optimizer step's temporaries (foreach kernels) when everything is bf16. `gathered_blocks`:
    blocks held whole under full sharding; `always_wraps`: computing on a gathered copy even
    without it. `chunked_loss`: logits exist in chunks unless the vocabulary is split.
    `allocator`: reserved over allocated. `overhead`: bytes
    outside the allocator (context, NCCL).

    Time. `matmul` and `attention`: share of the device's sustained rate. `traffic`: HBM bytes of
    norms, activations and residuals, as a multiple of the bytes that autograd keeps;
    `compiled_traffic`: the same where the layers are compiled, None: no other.
    `score_bytes`: HBM bytes per attention score and forward without a flash kernel. `launch`:
    seconds that the host needs to start one block's forward; `straggle`: by what share each further
    tensor-parallel rank delays it, as all wait for the slowest. `collective`: seconds of an empty
    collective of two ranks, `collective_rank`: of each further one. `tp_exposed`,
    `shard_exposed`: share of communication that computation never hides. `step`: seconds once
    per optimizer step. `zero`: level of sharding where none is printed; `plain_bf16`: precision
    where no more than bf16 is printed.
    """

    name: str
    words: str
    saved_hidden: float = 16.0
    saved_attention: float = 4.0
    saved_ffn: float = 8.0
    saved_plain: float = 4.0
    selective: str = "products"
    logit: float = 14.0
    split_logit: float = 16.0
    sharded: bool = True
    gradient: float = 4.0
    optimizer: float = 8.0
    kept_gradients: bool = False
    step_temporary: float = 0.0
    sequence_parallel: bool = True
    keeps_gathered: bool = True
    gathered_blocks: float = 3.0
    always_wraps: bool = False
    chunked_loss: bool = False
    allocator: float = 1.046
    overhead: float = 1.5 * GIB
    matmul: float = 0.912
    attention: float = 1.06
    traffic: float = 4.6
    compiled_traffic: float | None = None
    launch: float = 400e-6
    score_bytes: float = 14.0
    straggle: float = 0.015
    collective: float = 60e-6
    collective_rank: float = 3e-6
    tp_exposed: float = 1.0
    shard_exposed: float = 0.13
    step: float = 5e-3
    zero: int = 3
    plain_bf16: str = "bf16_mixed"
    flash: bool = True


_HOOKS = "counted: saved-tensor hooks on HF modules; fused kernels by what they save"
_CODE = "counted: the runtime's code or documentation"
CONSTANTS: dict[str, tuple[str, str]] = {
    "saved_hidden": ("bytes a token and hidden unit, in bf16", _HOOKS),
    "saved_attention": ("bytes a token and column of query, key and value, in bf16", _HOOKS),
    "saved_ffn": ("bytes a token and feed-forward unit, in bf16", _HOOKS),
    "saved_plain": ("the same in a block without a gate", _HOOKS),
    "selective": ("what selective checkpointing keeps", _CODE),
    "logit": ("bytes a logit at the peak of the loss", "counted: torch's memory tracker"),
    "split_logit": ("the same over a split vocabulary", "counted: torch's `loss_parallel`"),
    "sharded": ("whether the shard is fp32, without a bf16 copy", _CODE),
    "gradient": ("bytes a parameter, mixed precision", _CODE),
    "optimizer": ("bytes a parameter, mixed precision", _CODE),
    "kept_gradients": ("whether gradients lie in a buffer that is never freed", _CODE),
    "step_temporary": ("bytes a parameter, pure bf16", "counted: foreach kernels copy once"),
    "sequence_parallel": ("whether tensor parallel ranks split norms", _CODE),
    "keeps_gathered": ("whether gathered inputs are kept", _CODE),
    "gathered_blocks": ("blocks", "counted: the present, the next, and what is reduced"),
    "always_wraps": ("whether it computes on a gathered copy without sharding", _CODE),
    "chunked_loss": ("whether logits exist in chunks", _CODE),
    "allocator": ("reserved over live bytes", "measured: both as simumax_b200 prints them"),
    "overhead": ("bytes", "assumed: a CUDA context with NCCL takes 1 to 3 GB"),
    "matmul": ("share of the device's sustained rate", "assumed: as torchtitan"),
    "attention": ("share of the device's rate of flash attention", "assumed: as torchtitan"),
    "traffic": ("HBM bytes a byte that autograd keeps", "assumed: as torchtitan"),
    "compiled_traffic": ("the same of compiled layers", "assumed: as not compiled"),
    "launch": ("seconds a block's forward", "assumed: a host of today"),
    "score_bytes": ("HBM bytes an attention score and forward", "assumed: as megatron-early"),
    "straggle": ("share a further tensor parallel rank", "assumed: as megatron-early"),
    "collective": ("seconds, two ranks", "assumed: vTrain's table of A100 has 69 µs"),
    "collective_rank": ("seconds a further rank", "assumed: far below megatron-early's"),
    "tp_exposed": ("share of the communication", "assumed: nothing is hidden"),
    "shard_exposed": ("share of the communication", "assumed: as torchtitan"),
    "step": ("seconds an optimizer step", "assumed: a few host operations"),
    "zero": ("level where none is printed", _CODE),
    "plain_bf16": ("precision where `bf16` is all that is printed", _CODE),
    "flash": ("whether attention writes no scores to memory", _CODE),
}
"""Field → its unit, and where the value comes from unless a calibration fitted it."""

OWN = Runtime(
    name="qwenft",
    words=r"qwenft",
    logit=16.0,
    always_wraps=True,
    chunked_loss=True,
    matmul=1.096,
    attention=3.0,
    traffic=25.8,
    compiled_traffic=17.5,
)
"""The product's own trainer: FSDP2, torch-native tensor and pipeline parallelism, HF modules.

Its speed is fitted to runs of its own on an H200 (`tests/truth/gpu_runs.json`): `attention` to the
kernels of a profiled step, the others to the steps (`gpu/calibrate.py` in tests/support).
"""

MEGATRON = Runtime(
    name="megatron",
    words=r"megatron|nanotron|primus|mcore|mindspeed|neox",
    saved_hidden=8.0,
    saved_ffn=6.0,
    selective="attention",
    logit=6.0,
    split_logit=6.0,
    sharded=False,
    optimizer=12.0,
    kept_gradients=True,
    keeps_gathered=False,
    matmul=1.098,
    attention=1.99,
    traffic=5.06,
    launch=250e-6,
    tp_exposed=0.887,
    shard_exposed=0.30,
    zero=1,
)
"""Fused norms and gates, fp32 gradient buffer, distributed optimizer."""

MEGATRON_EARLY = replace(
    MEGATRON,
    name="megatron-early",
    words=r"megatron.?deepspeed",
    sequence_parallel=False,
    zero=0,
    flash=False,
    matmul=0.938,
    traffic=1.56,
    score_bytes=13.0,
    launch=1040e-6,
    collective=155e-6,
    collective_rank=20e-6,
    tp_exposed=1.0,
    shard_exposed=0.13,
)
"""Megatron of the fp16 years: no flash attention, no sequence parallelism, whole optimizer."""

NEMO = replace(MEGATRON, name="nemo", words=r"nemo|dgx.?c\b|dgx cloud", gradient=2.0)
"""Megatron-Core with NeMo's defaults: gradients reduced in bf16."""

INTERNEVO = replace(
    MEGATRON,
    name="internevo",
    words=r"internevo",
    gradient=2.0,
    optimizer=24.0,
    matmul=0.773,
    attention=1.0,
    traffic=2.81,
)
"""Megatron-like; keeps flattened fp32 copies of gradients and weights beside the moments."""

TITAN = Runtime(
    name="torchtitan",
    words=r"torch.?titan|fsdp.?2|\bfms|automodel",
    selective="half",
    tp_exposed=0.45,
)
"""FSDP2 with every other matrix multiplication's output kept by selective checkpointing."""

TORCHTUNE = replace(
    TITAN,
    name="torchtune",
    words=r"torch.?tune",
    logit=2.0,
    split_logit=2.0,
    plain_bf16="bf16_pure",
)
"""Chunked cross-entropy is its default loss; `dtype: bf16` is that of the weights, too."""

COMPOSER = replace(
    TITAN,
    name="composer",
    words=r"composer|llm[-_ ]?foundry|mosaic",
    saved_hidden=8.0,
    saved_ffn=6.0,
    logit=4.0,
    matmul=0.867,
    attention=1.0,
    traffic=5.0,
    shard_exposed=0.30,
)
"""FSDP1 with low-precision norms and flash-attention's cross-entropy, which keeps the bf16 logits
and, in backward, makes their gradient beside them (llm-foundry leaves it out of place)."""

FSDP = replace(
    TITAN, name="fsdp", words=r"fsdp|fully.?sharded|lightning|lit-?gpt|fabric|accelerate|\bddp\b"
)

PLAIN = replace(FSDP, name="pytorch", words=r"torch")
"""Whatever else trains in PyTorch, and what nobody has heard of."""

SWIFT = Runtime(
    name="ms-swift",
    words=r"swift",
    logit=38.0,
    plain_bf16="bf16_pure",
    step_temporary=2.0,
    allocator=1.0,
    overhead=0.9 * GIB,
    sharded=False,
    optimizer=12.0,
    zero=0,
)
"""HF modelling code of 2023 with fp32 logits and shifted copies; weights in the given dtype."""

DEEPSPEED = Runtime(
    name="deepspeed",
    words=r"deepspeed|\bhf\b|hugging|xtuner|colossal|trainer|transformers|llama[-_ ]?factory|"
    r"axolotl|unsloth|\btrl\b|\bpeft\b|openrlhf|fastchat|lmflow|firefly",
    step_temporary=2.0,
    sharded=False,
    optimizer=12.0,
    zero=0,
)
"""HF Trainer with or without ZeRO."""

RUNTIMES: tuple[Runtime, ...] = (
    OWN,
    COMPOSER,
    TORCHTUNE,
    TITAN,
    NEMO,
    INTERNEVO,
    MEGATRON_EARLY,
    MEGATRON,
    FSDP,
    SWIFT,
    DEEPSPEED,
    PLAIN,
)
"""In order of recognition: the first whose words occur in the text wins."""


def find_runtime(text: str) -> Runtime:
    """Return the runtime that free text names: the product's own where it is empty."""
    lowered = text.lower()
    if not re.search(r"\w", lowered):
        return OWN
    for runtime in RUNTIMES:
        if re.search(runtime.words, lowered):
            return runtime
    return PLAIN
