"""What the free-text columns of a table of runs mean.

Text that says something, but nothing that is known here, is an error that names its column: a run
is not estimated as another one in silence.
"""

from __future__ import annotations

import re
from dataclasses import replace

from qwenft_plan.errors import SpecError
from qwenft_plan.hardware import Device
from qwenft_plan.row_cells import says
from qwenft_plan.workload import Method

__all__ = [
    "Sharding",
    "device_of",
    "flash_of",
    "method_of",
    "precision_of",
    "recompute_of",
    "zero_of",
]

Sharding = tuple[int, int | None, bool]
"""Level (0 to 3), size of its group where printed, whether the group is one node."""

_RATE = re.compile(r"(?:(\d+)\s*[x×*]\s*)?(\d+(?:\.\d+)?)\s*([GT])b(?:ps|/s|it(?:s|/s)?|E)?\b")
_NETWORK_WORDS = re.compile(r"node|inter|ib\b|infiniband|roce|hdr|ndr|rdma|ethernet|gbe|efa|nic")
_FP8 = r"fp8|float8|e4m3|e5m2|mxfp|nvfp4|fp4"
_PURE = r"pure|(?:bf16|fp16|\b16)[-_ ](?:true|only)|true[-_ ](?:bf16|fp16|16)|full[-_ ]bf16"
_HALF = r"bf16|fp16|bfloat|float16|half|amp|mixed|\b16\b"
_SINGLE = r"fp32|float32|tf32|\b32\b|full[-_ ]precision"
_SOME = (
    r"selective|partial|\bsac\b|op[-_ ]?sac|\bop\b|core[-_ ]?att|att\w*[-_ ]only|every|fraction|"
    r"half|some|\d+\s*/\s*\d+|layernorm|\bmlp\b"
)
_ALL = (
    r"full|true|yes|uniform|block|\ball\b|check.?point|recompute|recomputation|remat|ckpt|\bon\b|"
    r"enabled?|\bac\b|\bgc\b|^1(?:\.0)?$|^y$|activation"
)
_DISTRIBUTED = r"dist\w*[-_ ]?opt\w*"
_LEVELS = (
    (r"shard_grad_op|shard_zero2|reshard\w*\s*[=:]?\s*(?:false|never|0)", 2),
    (r"no[-_ ]?shard|\bddp\b|not sharded", 0),
    (r"fsdp|(?:full|hybrid)[-_ ]?shard|hsdp|fully[-_ ]shard|zero\+\+|zero[-_ ]?inf", 3),
    (_DISTRIBUTED, 1),
)
_YES_NO = {"none": 0, "no": 0, "off": 0, "false": 0, "true": 1, "yes": 1}
_NOTHING = r"^(?:none|no|off|false|never|disabled?|n|0(?:\.0)?|not used)\b|not (?:used|enabled)"
_OTHER_METHODS = (
    r"\b(?:dpo|ppo|grpo|rlhf|kto|orpo|simpo|ia3|galore|badam|freeze|frozen|inference|"
    r"distill(?:ation)?)\b|reward|(?:prompt|prefix|p)[-_ ]?tuning"
)
_OTHER_OPTIMIZERS = r"adafactor|\bsgd\b|\blion\b|muon|shampoo|sophia|adagrad|rmsprop|\blomo\b"
_EIGHT_BIT_BASE = r"(?:int8|8.?bit).?lora|lora.{0,4}\(?(?:int8|8.?bit)(?!.?adam)"


def precision_of(text: str, plain: str = "bf16_mixed") -> str:
    """Return bf16_mixed, bf16_pure, fp8 or fp32; fp16 counts as bf16.

    `plain`: what a runtime means where the column is empty or says no more than bf16.
    """
    lowered = text.lower()
    if says(lowered, _FP8):
        return "fp8"
    if says(lowered, _PURE):
        return "bf16_pure"
    if not lowered or re.search(_HALF, lowered):
        told = re.search(r"mixed|amp|fp16|fp32|float32|master", lowered)
        return "bf16_mixed" if told else plain
    if re.search(_SINGLE, lowered):
        return "fp32"
    raise SpecError("precision", f"{text!r} is none of bf16, fp16, fp8 and fp32, mixed or pure")


def recompute_of(text: str) -> str:
    """Return none, selective or full; empty: none."""
    lowered = text.lower()
    if not lowered or re.search(_NOTHING, lowered):
        return "none"
    if says(lowered, _SOME):
        return "selective"
    found = says(lowered, _ALL)
    if found is None and says(lowered, _SOME) is None:
        raise SpecError("recompute", f"{text!r} is none of none, selective and full")
    return "full" if found else "none"


def method_of(kind: str, optimizer: str, rest: str) -> Method:
    """Return what is trained and how, from kind, optimizer and the other columns together."""
    lowered = f"{kind} {rest}".lower()
    other = re.search(_OTHER_METHODS, kind.lower()) or re.search(_EIGHT_BIT_BASE, lowered)
    if other:
        message = f"{other[0]!r} is not estimated, only training of all weights, LoRA and QLoRA"
        raise SpecError("kind", message)
    every = f"{lowered} {optimizer.lower()}"
    strange = re.search(_OTHER_OPTIMIZERS, every)
    if strange:
        raise SpecError("optimizer", f"{strange[0]!r} is not estimated, only Adam and 8-bit Adam")
    four = re.search(
        r"\bqlora|\blora.{0,20}(?:4.?bit|nf4|int4)|(?:4.?bit|nf4|int4).{0,12}lora", every
    )
    adapted = (
        "qlora" if four else "lora" if re.search(r"lora\b|lora[+_ (]|dora\b", every) else "full"
    )
    eight = re.search(r"adam\w*.?(?:bnb.?)?8.?bit|8.?bit.?(paged.?)?adam", every)
    moved = re.sub(r"act(?:ivations?)?[-_ ](?:cpu[-_ ])?offload\w*", "", every)
    return Method(
        kind=adapted,
        optimizer="adamw8bit" if eight else "adamw",
        offload_optimizer=bool(says(moved, r"offload")),
    )


def zero_of(text: str, fsdp: int, default: int, framework: str = "") -> Sharding:
    """Return how states are shared; where the column is empty, what `framework` says of it."""
    lowered = text.lower()
    group = re.search(r"group\s*[=:]?\s*(\d+)", lowered)
    size = int(group[1]) if group else None
    hybrid = bool(re.search(r"hsdp|hybrid[-_ ]?shard", lowered))
    level = _level(lowered)
    if level is None and lowered:
        raise SpecError("zero", f"{text!r} names no ZeRO stage from 0 to 3 and no kind of FSDP")
    if level is None and fsdp == 1:
        level = _level(framework.lower(), strict=True)
    if level is None:
        level = 3 if fsdp > 1 else default
    return level, size, hybrid


def _level(lowered: str, *, strict: bool = False) -> int | None:
    """Return the level that text in lower case names; `strict`: not by a bare number or yes."""
    named = re.search(r"(?:zero|stage|(?<![a-z])z)[-_ =:+]*([0-3])(?!\d)", lowered)
    bare = None if strict else re.match(r"([0-3])(?:\.0+)?(?=[\s(,]|$)", lowered)
    if named or bare:
        return int((named or bare)[1])  # type: ignore[index]
    found = next((level for words, level in _LEVELS if re.search(words, lowered)), None)
    if found == 1 and not says(lowered, _DISTRIBUTED):
        return 0
    return _YES_NO.get(lowered) if found is None and not strict else found


def flash_of(text: str, *, eager_is_attention: bool) -> bool | None:
    """Return whether attention has a flash kernel, where text says so.

    `eager` is an attention of Hugging Face's, and elsewhere the absence of compilation.
    """
    lowered = text.lower()
    if re.search(r"att\w*[\s=:'\"]+eager|eager[-_ ]att|(?:naive|vanilla|math)[-_ ]att", lowered):
        return False
    if eager_is_attention and re.search(r"\beager\b", lowered):
        return False
    return says(lowered, r"flash|\bfa-?[23]\b")


def device_of(device: Device, interconnect: str) -> Device:
    """Return `device` with the network that the text prints, in gigabits/s per node.

    `8x400Gb IB`, `400Gb/s RDMA per GPU`, `1600 Gbps node-node`, `4x100Gb RoCE per node`,
    `3.2 Tbps EFA`, `100GbE`.
    """
    for part in re.split(r"[;,+]| and ", interconnect):
        lowered = part.lower()
        found = _RATE.search(part)
        if found is None or not _NETWORK_WORDS.search(lowered):
            continue
        unit = {"G": 1e9, "T": 1e12}[found[3]]
        rate = float(found[2]) * int(found[1] or 1) / 8 * unit
        if re.search(r"per[- ]?gpu|/gpu|each gpu", lowered) and not found[1]:
            rate *= device.per_node
        if rate >= 1e8:  # noqa: PLR2004 - slower than any network that trains
            return replace(device, network=rate)
    return device
