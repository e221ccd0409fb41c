"""Which degrees a model and a batch allow, and why the others do not exist.

Every rule is one predicate that returns the sentence to read, or None. The trainer obeys the same
rules: heads, key/value heads, vocabulary and sequence split over tensor parallel ranks; whole
blocks, equally many on each pipeline stage; tied vocabulary matrices never on two stages.
"""

from __future__ import annotations

from qwenft_plan.model import ModelShape

__all__ = [
    "axis_reason",
    "batch_reason",
    "fp8_reason",
    "may_stay_gathered",
    "packing_reason",
    "pipeline_reason",
    "tensor_reason",
    "together_reason",
    "virtual_stages",
]

_PACKED = 64  # 4-bit numbers that share a scale
_TWO_CHUNKS = frozenset({"Interleaved1F1B", "ZBVZeroBubble"})


def virtual_stages(schedule: str, pp: int) -> int:
    """Return the model chunks that each pipeline rank holds under `schedule`."""
    return 2 if pp > 1 and schedule in _TWO_CHUNKS else 1


def tensor_reason(model: ModelShape, tp: int, sequence_length: int) -> str | None:
    """Return why tensor parallel degree `tp` does not exist, or None."""
    parts = (
        ("attention heads", model.heads),
        ("key/value heads", model.kv_heads),
        ("vocabulary entries", model.vocab),
        ("feed-forward columns", model.ffn),
        ("tokens of a sequence", sequence_length),
    )
    for what, size in parts:
        if size % tp:
            return f"tensor {tp}: {size} {what} are not divisible by {tp}"
    return None


def pipeline_reason(
    model: ModelShape, pp: int, schedule: str, accumulation: int, checkpointing: str = "none"
) -> str | None:
    """Return why `pp` stages under `schedule` with so many micro-batches do not exist, or None."""
    if pp == 1:
        return None
    if model.tied:
        return (
            f"pipeline {pp}: {model.name} ties its input and output embeddings, which would have "
            "to live on two stages"
        )
    chunks = pp * virtual_stages(schedule, pp)
    if model.layers % chunks:
        return f"pipeline {pp}: {model.layers} blocks are not divisible by {chunks} chunks"
    return _schedule_reason(pp, schedule, accumulation, checkpointing)


def _schedule_reason(pp: int, schedule: str, accumulation: int, checkpointing: str) -> str | None:
    if schedule != "GPipe" and accumulation < pp:
        return (
            f"pipeline {pp}: {accumulation} micro-batches of a step are fewer than {pp} stages, "
            f"which {schedule} needs"
        )
    if schedule in _TWO_CHUNKS and accumulation % pp:
        return f"pipeline {pp}: {accumulation} micro-batches are not divisible by {pp} stages"
    if schedule == "ZBVZeroBubble" and checkpointing == "selective":
        return (
            f"pipeline {pp}: {schedule} runs backward in two halves, which torch refuses under "
            "selective activation checkpointing; full or none works"
        )
    return None


def batch_reason(global_batch: int, dp: int, micro_batch: int) -> str | None:
    """Return why a global batch cannot be cut into `dp` × `micro_batch`, or None."""
    if global_batch % dp:
        return f"batch {global_batch} is not divisible by {dp} data-parallel ranks"
    if global_batch // dp % micro_batch:
        return f"micro-batch {micro_batch} does not divide the {global_batch // dp} samples a rank"
    return None


def axis_reason(
    method: str, axis: str, degree: int, *, offload: bool, precision: str
) -> str | None:
    """Return why a method of training excludes `degree` on `axis` (tp or pp), or None."""
    word = {"tp": "tensor", "pp": "pipeline"}[axis]
    if degree == 1:
        return None
    if method == "qlora" and axis == "tp":
        return (
            f"{word} {degree}: matrices in 4 bits are not split over tensor-parallel ranks; "
            "shard them instead"
        )
    if precision == "fp8" and axis == "tp":
        return (
            f"{word} {degree}: matrices that multiply in fp8 are not split over tensor-parallel "
            "ranks; shard them instead, or choose bf16"
        )
    if offload:
        return (
            f"{word} {degree}: an optimizer in the host's memory is for data-parallel plans, where "
            "each weight crosses PCIe once a pass"
        )
    return None


def together_reason(method: str, optimizer: str, *, offload: bool) -> str | None:
    """Return why what a request asks of its optimizer contradicts itself, or None."""
    if offload and method != "full":
        return f"spares nothing for {method}, whose optimizer holds the adapters alone"
    if offload and optimizer != "adamw":
        return f"is for optimizer adamw, which the host steps fast, not for {optimizer}"
    return None


def may_stay_gathered(*, pp: int, dp_shard: int, offload: bool) -> bool:
    """Tell whether a plan has the choice to keep what its layers gather.

    A pipeline's stage keeps it anyway, one rank has nothing to gather, and what the host holds is
    fetched to be freed.
    """
    return pp == 1 and dp_shard > 1 and not offload


def fp8_reason(precision: str, method: str) -> str | None:
    """Return why a method of training has no fp8, or None."""
    if precision == "fp8" and method != "full":
        return f"fp8 is for method full: frozen weights under {method} gain nothing by it"
    return None


def packing_reason(model: ModelShape) -> str | None:
    """Return why a model's matrices cannot be kept in 4 bits, or None."""
    parts = (
        ("hidden units", model.hidden),
        ("attention columns", model.attention_width),
        ("feed-forward columns", model.ffn),
    )
    for what, size in parts:
        if size % _PACKED:
            return f"4-bit numbers share a scale by {_PACKED}, and {size} {what} are no multiple"
    return None
