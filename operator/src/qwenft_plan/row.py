"""One row of a table of runs → what was computed and how it was laid out.

The columns are those of `tests/truth/measured_runs.csv`; none of its `measured_*` columns is read.
Text columns are free text as people print it. A missing model dimension is filled from the model's
name, else from its number of parameters; a missing batch from the degrees.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qwenft_plan.errors import SpecError
from qwenft_plan.hardware import Device, find_device
from qwenft_plan.row_cells import count, says, text
from qwenft_plan.row_model import row_model
from qwenft_plan.row_text import (
    device_of,
    flash_of,
    method_of,
    precision_of,
    recompute_of,
    zero_of,
)
from qwenft_plan.runtimes import MEGATRON_EARLY, PLAIN, Runtime, find_runtime
from qwenft_plan.workload import Layout, Workload

__all__ = ["Question", "parse_row"]

_LEVEL_WEIGHTS = 3
_FUSED = r"fused[-_ ]?(?:linear[-_ ])?(?:ce\b|cross)|liger|chunked|cut.?cross|unsloth"
_DEVICE_MAP = r"device_map|naive (?:mp|pp|model|pipe)|\bnaive\b(?![-_ ]att)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A run to be estimated.

    `semantics`: which memory the source printed, as free text. `assumed`: sentences on what was
    filled in because nothing here knows the words of the row.
    """

    work: Workload
    layout: Layout
    semantics: str
    assumed: tuple[str, ...] = ()


def parse_row(row: Mapping[str, Any]) -> Question:
    """Return the question that `row` asks; raises `SpecError` naming the column."""
    framework, recompute = text(row, "framework"), text(row, "recompute")
    words = f"{framework} {text(row, 'interconnect')}".lower()
    runtime = _runtime(row)
    precision = precision_of(text(row, "precision"), runtime.plain_bf16)
    device, gpus = _device(row), count(row, "n_gpus")
    if gpus is None:
        raise SpecError("n_gpus", "is empty; how many there are is never guessed")
    per_node = min(count(row, "gpus_per_node") or device.per_node, gpus)
    compiled = says(words, "compile")
    if compiled is None:
        compiled = runtime.name == "torchtitan" and precision == "fp8"
    work = Workload(
        model=row_model(row),
        runtime=runtime,
        device=device,
        method=method_of(text(row, "kind"), text(row, "optimizer"), words),
        precision=precision,
        sequence_length=count(row, "seq_len") or 2048,
        per_node=per_node,
        fused_loss=True if says(words, _FUSED) else None,
        flash_attention=flash_of(
            framework, eager_is_attention=runtime.name in {"deepspeed", "ms-swift"}
        ),
        compiled=compiled,
    )
    layout = _layout(row, work, gpus, naive=bool(re.search(_DEVICE_MAP, words)))
    layout = replace(layout, checkpointing=recompute_of(recompute))
    semantics = text(row, "mem_semantics").lower()
    return Question(work=work, layout=layout, semantics=semantics, assumed=_assumed(row))


def _runtime(row: Mapping[str, Any]) -> Runtime:
    """Return the runtime of the row; Megatron in fp16 is older than flash attention."""
    framework = text(row, "framework")
    found = find_runtime(framework)
    both = f"{framework} {text(row, 'recompute')}".lower()
    split = says(both, r"\bsp\b|\+sp\b|sequence[-_ ]?parallel\w*")
    if "fp16" in text(row, "precision").lower() and found.name.startswith("megatron"):
        found = replace(MEGATRON_EARLY, sequence_parallel=False)
    return found if split is None else replace(found, sequence_parallel=split)


def _assumed(row: Mapping[str, Any]) -> tuple[str, ...]:
    framework = text(row, "framework")
    found = []
    if find_runtime(framework) is PLAIN and not re.search(PLAIN.words, framework.lower()):
        found.append(f"framework: {framework!r} is not known; estimated as plain PyTorch")
    if re.search(r"act(?:ivations?)?[-_ ](?:cpu[-_ ])?offload", framework.lower()):
        found.append("framework: what activation offloading spares is not counted")
    return tuple(found)


def _device(row: Mapping[str, Any]) -> Device:
    name = text(row, "gpu")
    found = find_device(name)
    if found is None:
        raise SpecError("gpu", f"unknown accelerator {name!r}")
    return device_of(found, text(row, "interconnect"))


def _layout(row: Mapping[str, Any], work: Workload, gpus: int, *, naive: bool) -> Layout:
    tp, pp, cp, chunks = (count(row, key) or 1 for key in ("tp", "pp", "cp", "vpp"))
    fsdp, dp = count(row, "fsdp") or 1, count(row, "dp")
    if naive:
        pp = gpus
    model_ranks = tp * pp * cp * fsdp
    if gpus % model_ranks:
        message = f"tp {tp} × pp {pp} × cp {cp} × fsdp {fsdp} do not divide {gpus} GPUs"
        raise SpecError("n_gpus", message)
    replicas = gpus // model_ranks
    if dp is not None and dp not in {replicas, replicas * fsdp, 1}:
        raise SpecError("dp", f"{dp} × fsdp, tp, pp and cp is not {gpus} GPUs")
    level, group, in_node = zero_of(
        text(row, "zero"), fsdp, work.runtime.zero, text(row, "framework")
    )
    if in_node and group is None:
        group = max(1, work.per_node // (tp * cp))
    shard = fsdp if fsdp > 1 else min(group or replicas, replicas) if level else 1
    ranks = replicas * fsdp
    shard = shard if ranks % shard == 0 else ranks
    micro, accumulation = _batches(row, ranks, pp, level, naive=naive)
    return Layout(
        pp=pp,
        tp=tp,
        cp=cp,
        dp_shard=shard,
        dp_replicate=ranks // shard,
        micro_batch=micro,
        accumulation=accumulation,
        virtual_stages=chunks if pp > 1 else 1,
        schedule="naive" if naive and pp > 1 else "1F1B",
        zero=level,
    )


def _batches(
    row: Mapping[str, Any], dp: int, pp: int, level: int, *, naive: bool
) -> tuple[int, int]:
    """Micro-batch and micro-batches per rank and step."""
    whole, micro = count(row, "global_batch"), count(row, "micro_batch")
    if whole is None:
        return micro or 1, 1 if naive else max(1, 2 * pp if pp > 1 else 1)
    each = max(1, math.ceil(whole / dp))
    if micro is None:
        if level >= _LEVEL_WEIGHTS and pp > 1 and each % pp == 0:
            return each // pp, pp  # pipelines over sharded weights run as few as they have stages
        return 1, each
    micro = min(micro, each)
    return micro, max(1, math.ceil(each / micro))
