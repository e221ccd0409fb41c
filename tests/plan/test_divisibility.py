"""Which degrees exist for a model and a batch, and the sentence for each that does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planning import MODEL
from qwenft_plan.divisibility import batch_reason, pipeline_reason, tensor_reason, virtual_stages
from qwenft_plan.model import ModelShape

LENGTH = 2048

# Every tensor-parallel degree up to 8 that exists, by heads, key/value heads, vocabulary and
# feed-forward columns.
TENSOR_DEGREES = [
    ("Qwen/Qwen1.5-0.5B", [1, 2, 4, 8]),
    ("Qwen/Qwen1.5-1.8B", [1, 2, 4, 8]),
    ("Qwen/Qwen1.5-4B", [1, 2, 4]),
    ("Qwen/Qwen1.5-7B", [1, 2, 4, 8]),
    ("Qwen/Qwen1.5-14B", [1, 2, 4, 8]),
    ("Qwen/Qwen1.5-32B", [1, 2, 4, 8]),
    ("Qwen/Qwen1.5-72B", [1, 2, 4, 8]),
    ("Qwen/Qwen2.5-0.5B", [1, 2]),
    ("Qwen/Qwen2.5-1.5B", [1, 2]),
    ("Qwen/Qwen2.5-3B", [1, 2]),
    ("Qwen/Qwen2.5-7B", [1, 2, 4]),
    ("Qwen/Qwen2.5-14B", [1, 2, 4, 8]),
    ("Qwen/Qwen2.5-72B", [1, 2, 4, 8]),
    ("Qwen/Qwen3-0.6B", [1, 2, 4, 8]),
    ("Qwen/Qwen3-8B", [1, 2, 4, 8]),
    ("Qwen/Qwen3-32B", [1, 2, 4, 8]),
]


@pytest.mark.parametrize(("name", "degrees"), TENSOR_DEGREES)
def test_a_model_has_exactly_the_tensor_degrees_that_divide_it(
    name: str, degrees: list[int]
) -> None:
    model = ModelShape.known(name)
    assert [tp for tp in range(1, 9) if tensor_reason(model, tp, LENGTH) is None] == degrees


@pytest.mark.parametrize(
    ("name", "tp", "words"),
    [
        ("Qwen/Qwen1.5-4B", 8, "20 attention heads"),
        ("Qwen/Qwen2.5-7B", 8, "28 attention heads"),
        ("Qwen/Qwen2.5-7B", 7, "4 key/value heads"),
        ("Qwen/Qwen2.5-3B", 4, "2 key/value heads"),
        ("Qwen/Qwen1.5-7B", 16, None),
        ("Qwen/Qwen1.5-7B", 3, "32 attention heads"),
    ],
)
def test_a_tensor_degree_that_does_not_exist_names_what_it_fails_to_divide(
    name: str, tp: int, words: str | None
) -> None:
    reason = tensor_reason(ModelShape.known(name), tp, LENGTH)
    expected = None if words is None else f"tensor {tp}: {words} are not divisible by {tp}"
    assert reason == expected


@pytest.mark.parametrize(
    ("changes", "length", "words"),
    [
        ({"heads": 6, "kv_heads": 3}, 1000, "6 attention heads"),
        ({"heads": 8, "kv_heads": 2}, 1000, "2 key/value heads"),
        ({"heads": 8, "kv_heads": 4, "vocab": 1001}, 1000, "1001 vocabulary entries"),
        ({"heads": 8, "kv_heads": 4, "ffn": 201}, 1000, "201 feed-forward columns"),
        ({"heads": 8, "kv_heads": 4}, 1001, "1001 tokens of a sequence"),
    ],
)
def test_every_part_that_tensor_parallelism_splits_is_checked(
    changes: dict[str, int], length: int, words: str
) -> None:
    reason = tensor_reason(replace(MODEL, **changes), 4, length)
    assert reason == f"tensor 4: {words} are not divisible by 4"


@pytest.mark.parametrize("length", [1, 7, 2049])
def test_one_tensor_rank_always_exists(length: int) -> None:
    odd = replace(MODEL, heads=7, kv_heads=7, vocab=1001, ffn=201)
    assert tensor_reason(odd, 1, length) is None


@pytest.mark.parametrize(
    ("schedule", "pp", "expected"),
    [
        ("GPipe", 4, 1),
        ("1F1B", 4, 1),
        ("Interleaved1F1B", 4, 2),
        ("ZBVZeroBubble", 4, 2),
        ("Interleaved1F1B", 1, 1),
        ("ZBVZeroBubble", 1, 1),
    ],
)
def test_only_schedules_of_two_chunks_cut_a_rank_s_blocks_in_two(
    schedule: str, pp: int, expected: int
) -> None:
    assert virtual_stages(schedule, pp) == expected


@pytest.mark.parametrize("schedule", ["GPipe", "1F1B", "Interleaved1F1B", "ZBVZeroBubble"])
@pytest.mark.parametrize("tied", [True, False])
def test_one_stage_always_exists(schedule: str, *, tied: bool) -> None:
    assert pipeline_reason(replace(MODEL, tied=tied), 1, schedule, 1) is None


@pytest.mark.parametrize("pp", [2, 4])
def test_tied_embeddings_never_live_on_two_stages(pp: int) -> None:
    reason = pipeline_reason(ModelShape.known("Qwen/Qwen2.5-0.5B"), pp, "1F1B", 64)
    assert reason is not None
    assert reason.startswith(f"pipeline {pp}: Qwen/Qwen2.5-0.5B ties its input and output")


@pytest.mark.parametrize(
    ("layers", "pp", "schedule", "chunks"),
    [
        (28, 8, "1F1B", 8),
        (28, 8, "GPipe", 8),
        (30, 4, "1F1B", 4),
        (28, 4, "Interleaved1F1B", 8),
        (36, 8, "ZBVZeroBubble", 16),
    ],
)
def test_blocks_that_do_not_divide_among_the_chunks_are_counted(
    layers: int, pp: int, schedule: str, chunks: int
) -> None:
    reason = pipeline_reason(replace(MODEL, layers=layers), pp, schedule, 64)
    assert reason == f"pipeline {pp}: {layers} blocks are not divisible by {chunks} chunks"


@pytest.mark.parametrize(
    ("pp", "schedule", "accumulation", "exists"),
    [
        (4, "GPipe", 1, True),
        (4, "GPipe", 3, True),
        (4, "1F1B", 3, False),
        (4, "1F1B", 4, True),
        (4, "1F1B", 5, True),
        (2, "Interleaved1F1B", 1, False),
        (2, "Interleaved1F1B", 3, False),
        (2, "Interleaved1F1B", 4, True),
        (2, "ZBVZeroBubble", 3, False),
        (2, "ZBVZeroBubble", 6, True),
    ],
)
def test_a_schedule_exists_when_there_are_micro_batches_enough_for_it(
    pp: int, schedule: str, accumulation: int, *, exists: bool
) -> None:
    reason = pipeline_reason(MODEL, pp, schedule, accumulation)
    assert (reason is None) == exists
    if reason is not None:
        assert f"{accumulation} micro-batches" in reason


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("schedule", ["1F1B", "Interleaved1F1B", "ZBVZeroBubble"])
def test_backward_in_two_halves_does_not_go_with_selective_recomputation(
    schedule: str, checkpointing: str
) -> None:
    reason = pipeline_reason(MODEL, 2, schedule, 4, checkpointing)
    refused = schedule == "ZBVZeroBubble" and checkpointing == "selective"
    assert (reason is not None) == refused
    if reason is not None:
        assert "full or none works" in reason


@pytest.mark.parametrize(
    ("whole", "dp", "micro"), [(64, 1, 1), (64, 8, 8), (64, 64, 1), (12, 3, 2), (1, 1, 1)]
)
def test_a_batch_that_cuts_evenly_has_nothing_to_say(whole: int, dp: int, micro: int) -> None:
    assert batch_reason(whole, dp, micro) is None


@pytest.mark.parametrize(
    ("whole", "dp", "micro", "reason"),
    [
        (64, 3, 1, "batch 64 is not divisible by 3 data-parallel ranks"),
        (8, 16, 1, "batch 8 is not divisible by 16 data-parallel ranks"),
        (64, 8, 3, "micro-batch 3 does not divide the 8 samples a rank"),
        (64, 8, 16, "micro-batch 16 does not divide the 8 samples a rank"),
    ],
)
def test_a_batch_that_does_not_cut_evenly_says_where(
    whole: int, dp: int, micro: int, reason: str
) -> None:
    assert batch_reason(whole, dp, micro) == reason
