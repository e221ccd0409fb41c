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
from qwenft_plan.row_model import row_model
from qwenft_plan.row_text import device_of, method_of, precision_of, recompute_of, zero_of
from qwenft_plan.runtimes import MEGATRON_EARLY, Runtime, find_runtime
from qwenft_plan.workload import Layout, Workload

__all__ = ["Question", "parse_row"]

_MOST = 10_000_000
_LEVEL_WEIGHTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A run to be estimated. `semantics`: which memory the source printed, as free text."""

    work: Workload
    layout: Layout
    semantics: str


def parse_row(row: Mapping[str, Any]) -> Question:
    """Return the question that `row` asks; raises `SpecError` naming the column."""
    text = f"{_text(row, 'framework')} {_text(row, 'interconnect')}".lower()
    runtime = find_runtime(_text(row, "framework"))
    recompute, precision = _text(row, "recompute"), _text(row, "precision")
    if "fp16" in precision.lower() and runtime.name.startswith("megatron"):
        runtime = replace(MEGATRON_EARLY, sequence_parallel="+sp" in recompute.lower())
    device, gpus = _device(row), count(row, "n_gpus")
    if gpus is None:
        raise SpecError("n_gpus", "is empty; how many there are is never guessed")
    per_node = min(count(row, "gpus_per_node") or device.per_node, gpus)
    work = Workload(
        model=row_model(row),
        runtime=runtime,
        device=device,
        method=method_of(f"{_text(row, 'kind')} {text} {_text(row, 'optimizer')}"),
        precision=precision_of(precision),
        sequence_length=count(row, "seq_len") or 2048,
        per_node=per_node,
        fused_loss=True if re.search(r"fused ce|liger|chunked|cut.?cross", text) else None,
        flash_attention=False if _without_flash(text) else None,
        compiled="compile" in text or (runtime.name == "torchtitan" and "8" in precision),
    )
    layout = _layout(row, runtime, gpus, naive="naive" in text or "device_map" in text)
    layout = replace(layout, checkpointing=recompute_of(recompute))
    return Question(work=work, layout=layout, semantics=_text(row, "mem_semantics").lower())


def count(row: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number of at least 1, None where the column is empty; else `SpecError`."""
    value = row.get(key)
    if value is None or value == "":
        return None
    # A remark may follow (`51200(paper)`), a unit or a separator may not: `4k` is not 4.
    found = re.match(r"\d+(\.0+)?(?=[\s(]|$)", value.strip()) if isinstance(value, str) else None
    number = int(float(found[0])) if found else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _MOST:
        raise SpecError(key, f"expected a whole number of at least 1, found {value!r}")
    return number


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise SpecError(key, f"expected text, found {type(value).__name__}")
    return str(value)


def _device(row: Mapping[str, Any]) -> Device:
    text = _text(row, "gpu")
    found = find_device(text)
    if found is None:
        raise SpecError("gpu", f"unknown accelerator {text!r}")
    return device_of(found, _text(row, "interconnect"))


def _without_flash(text: str) -> bool:
    return bool(re.search(r"no flash|flash_attn=false|eager|without flash", text))


def _layout(row: Mapping[str, Any], runtime: Runtime, gpus: int, *, naive: bool) -> Layout:
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
    level, group = zero_of(_text(row, "zero"), fsdp, runtime.zero)
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
