"""The same run in other people's words has the same estimate; what is not understood is refused.

What must never happen: another estimate in silence, or a traceback.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from accuracy.rows import Measured, load, visible
from planning import answer, row
from planning.variants import (
    EMPTY,
    FRAMEWORKS,
    GPUS,
    KINDS,
    NO_NUMBERS,
    NUMBERS,
    PRECISIONS,
    RECOMPUTES,
    REFUSED,
    SHARDINGS,
    variants,
)
from qwenft_plan.estimate import estimate_line, estimate_row
from qwenft_plan.hardware import find_device
from qwenft_plan.row import parse_row
from qwenft_plan.row_text import zero_of
from qwenft_plan.runtimes import find_runtime

COUNTS = ("n_gpus", "gpus_per_node", "seq_len", "global_batch", "micro_batch")
NAMELESS: dict[str, Any] = {"hidden": "", "layers": "", "heads": "", "kv_heads": "", "ffn": "",
                            "vocab": "", "params_b": ""}  # fmt: skip


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "assumed"}


@pytest.mark.parametrize(("column", "first", "other"), list(variants()))
def test_another_spelling_of_a_cell_is_the_same_run(
    column: str, first: object, other: object
) -> None:
    rest = NAMELESS if column == "model" else {}
    expected = answer(**rest, **{column: first})
    assert "error" not in expected
    assert answer(**rest, **{column: other}) == expected


@pytest.mark.parametrize(
    ("text", "name"), [(text, name) for name, texts in GPUS.items() for text in texts]
)
def test_a_printed_gpu_is_that_of_the_table(text: str, name: str) -> None:
    found = find_device(text)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("text", "name"), [(text, name) for name, texts in FRAMEWORKS.items() for text in texts]
)
def test_a_printed_framework_is_that_runtime(text: object, name: str) -> None:
    assert parse_row(row(framework=text)).work.runtime.name == name


@pytest.mark.parametrize(
    ("text", "mode"), [(text, mode) for mode, texts in RECOMPUTES.items() for text in texts]
)
def test_a_printed_recomputation_is_that_mode(text: object, mode: str) -> None:
    assert parse_row(row(recompute=text)).layout.checkpointing == mode


@pytest.mark.parametrize(
    ("text", "mode"), [(text, mode) for mode, texts in PRECISIONS.items() for text in texts]
)
def test_a_printed_precision_is_that_one(text: object, mode: str) -> None:
    assert parse_row(row(precision=text)).work.precision == mode


@pytest.mark.parametrize(
    ("text", "level"), [(text, level) for level, texts in SHARDINGS.items() for text in texts]
)
def test_a_printed_sharding_is_that_level(text: object, level: int) -> None:
    assert parse_row(row(zero=text)).layout.zero == level


@pytest.mark.parametrize(
    ("text", "kind"), [(text, kind) for kind, texts in KINDS.items() for text in texts]
)
def test_a_printed_kind_is_that_method(text: object, kind: str) -> None:
    assert parse_row(row(kind=text)).work.method.kind == kind


@pytest.mark.parametrize("value", NUMBERS)
def test_a_whole_number_may_be_printed_in_many_ways(value: object) -> None:
    assert answer(seq_len=value) == answer(seq_len="8192")


@pytest.mark.parametrize("column", COUNTS)
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_to_everybody_is_refused_by_its_column(column: str, value: str) -> None:
    assert answer(**{column: value})["error"].startswith(f"{column}: expected a whole number")


@pytest.mark.parametrize(
    ("value", "billions"), [("7.72B", 7.72), ("7.72 b", 7.72), ("350M", 0.35), (7.72, 7.72)]
)
def test_a_size_may_carry_its_unit(value: object, billions: float) -> None:
    expected = answer(**NAMELESS | {"model": "new", "params_b": str(billions)})
    assert answer(**NAMELESS | {"model": "new", "params_b": value}) == expected


@pytest.mark.parametrize(
    ("column", "value"), [(column, value) for column, values in REFUSED.items() for value in values]
)
def test_what_is_not_understood_is_refused_by_its_column(column: str, value: str) -> None:
    rest = NAMELESS | {"params_b": "7"} if column == "model" else {}
    error = answer(**rest | {column: value})["error"]
    assert error.startswith(f"{column}: ")
    assert "\n" not in error


@pytest.mark.parametrize("text", ["MaxText", "something new", "our code"])
def test_an_unheard_of_framework_is_estimated_as_plain_pytorch_and_says_so(text: str) -> None:
    found = answer(framework=text)
    assert found["assumed"] == [f"framework: {text!r} is not known; estimated as plain PyTorch"]
    assert numbers(found) == answer(framework="torch")


@pytest.mark.parametrize("column", ["gpus_per_node", "seq_len", "dp", "fsdp", "vpp", "zero", "cp"])
def test_every_empty_cell_is_an_absent_one(column: str) -> None:
    absent = {key: value for key, value in row().items() if key != column}
    assert {json.dumps(answer(**{column: empty})) for empty in EMPTY} == {
        json.dumps(estimate_row(absent))
    }


@pytest.mark.parametrize(
    ("columns", "same"),
    [
        ({"framework": "torchtitan, no compile"}, {"framework": "torchtitan"}),
        ({"framework": "torchtitan compile=False"}, {"framework": "torchtitan"}),
        ({"framework": "torchtitan eager"}, {"framework": "torchtitan"}),
        ({"framework": "DeepSpeed ZeRO-3", "zero": ""}, {"framework": "DeepSpeed", "zero": "3"}),
        ({"framework": "DeepSpeed stage 2", "zero": ""}, {"framework": "DeepSpeed", "zero": "2"}),
        ({"framework": "DeepSpeed ZeRO-3 (no offload)"}, {"framework": "DeepSpeed ZeRO-3"}),
        (
            {"framework": "DeepSpeed ZeRO-3, offload_optimizer=False"},
            {"framework": "DeepSpeed ZeRO-3"},
        ),
        ({"framework": "Megatron-LM naive attention"}, {"framework": "Megatron-LM no flash"}),
        ({"framework": "HF without Liger"}, {"framework": "HF"}),
        ({"framework": "HF flash-attn 2"}, {"framework": "HF"}),
        ({"zero": "HYBRID_SHARD"}, {"zero": "HSDP"}),
        ({"interconnect": "8x400 Gbps InfiniBand"}, {"interconnect": "3.2 Tbps EFA"}),
        ({"interconnect": "8 × 100GbE"}, {"interconnect": "800 Gb/s inter-node"}),
        ({"interconnect": "8x400Gb IB"}, {"interconnect": "400Gbps InfiniBand per GPU"}),
    ],
)
def test_two_ways_to_say_one_thing(columns: dict[str, str], same: dict[str, str]) -> None:
    base = {"fsdp": "1", "n_gpus": "16"}
    assert answer(**base, **columns) == answer(**base, **same)


@pytest.mark.parametrize(
    ("framework", "precision", "expected"),
    [
        ("torchtune", "bf16", "bf16_pure"),
        ("torchtune", "", "bf16_pure"),
        ("torchtune", "bf16, no fp8", "bf16_pure"),
        ("torchtune", "bf16 mixed", "bf16_mixed"),
        ("torchtune", "fp32", "fp32"),
        ("ms-swift", "bfloat16", "bf16_pure"),
        ("ms-swift", "AMP bf16", "bf16_mixed"),
        ("torchtitan", "bf16", "bf16_mixed"),
        ("HF Trainer", "bf16", "bf16_mixed"),
    ],
)
def test_plain_bf16_is_what_the_runtime_means_by_it(
    framework: str, precision: str, expected: str
) -> None:
    found = parse_row(row(framework=framework, precision=precision))
    assert found.work.precision == expected


def test_a_hybrid_shard_s_group_is_a_node() -> None:
    layout = parse_row(row(n_gpus="32", fsdp="", zero="HYBRID_SHARD")).layout
    assert (layout.dp_shard, layout.dp_replicate) == (8, 4)
    assert zero_of("HSDP group=16", 1, 3) == (3, 16, True)


@pytest.mark.parametrize(
    ("text", "split"),
    [("no SP", False), ("without sequence parallel", False), ("sequence_parallel=False", False),
     ("SP on", True), ("sequence parallel", True)],
)  # fmt: skip
def test_sequence_parallelism_is_read_and_its_absence(text: str, *, split: bool) -> None:
    found = parse_row(row(framework=f"Megatron-LM, {text}", tp="8", fsdp="1"))
    assert found.work.runtime.sequence_parallel is split


def test_activation_offloading_is_no_offloaded_optimizer_and_is_told() -> None:
    found = answer(framework="torchtune + activation offloading")
    assert "activation offloading" in found["assumed"][0]
    assert numbers(found) == answer(framework="torchtune")


@pytest.mark.parametrize(
    ("name", "layers"), [("Llama-3.1-405B (7 layers)", 7), ("Qwen2.5-7B truncated to 4 layers", 4)]
)
def test_a_model_cut_short_is_cut_without_its_dimensions_too(name: str, layers: int) -> None:
    assert parse_row(row(**NAMELESS | {"model": name})).work.model.layers == layers


@pytest.mark.parametrize(
    ("text", "semantics"),
    [("max_reserved_GiB; allocated=60", "reserved"), ("torch.cuda.max_memory_reserved", "reserved"),
     ("torch.cuda.max_memory_allocated, reserved=70", "allocated"), ("nvidia-smi", "")],
)  # fmt: skip
def test_the_memory_that_is_named_first_is_meant(text: str, semantics: str) -> None:
    assert answer(mem_semantics=text) == answer(mem_semantics=semantics)


def sample() -> list[Measured]:
    """One row of each source and framework."""
    kept = {(item.source, item.columns["framework"]): item for item in load() if not item.refused}
    return list(kept.values())


# Cells that say the same in other words, whatever the row: nothing about it may change.
SAME_CELLS: dict[str, Any] = {
    "n_gpus": float, "seq_len": lambda cell: f"{int(cell):,}", "tp": lambda cell: f"{cell}.0",
    "gpu": lambda cell: f"8x {cell}", "framework": lambda cell: f"  {cell} ",
    "recompute": str.upper, "precision": str.upper, "kind": str.upper, "model": str.lower,
}  # fmt: skip


@pytest.mark.parametrize("column", SAME_CELLS)
def test_no_tracked_run_changes_with_the_spelling_of_a_cell(column: str) -> None:
    for item in sample():
        columns: dict[str, Any] = visible(item.columns)
        if columns[column]:
            changed = columns | {column: SAME_CELLS[column](columns[column])}
            assert estimate_row(changed) == estimate_row(columns), (item.source, changed[column])


def test_a_tracked_run_survives_any_word_in_any_column() -> None:
    words = sorted({str(other) for _, _, other in variants()} | {"☃", "'", "\\", "0", "1e400"})
    for item in sample()[:6]:
        for column in (
            "gpu",
            "framework",
            "precision",
            "recompute",
            "zero",
            "kind",
            "interconnect",
        ):
            for word in words:
                found = json.loads(
                    estimate_line(json.dumps(visible(item.columns) | {column: word}))
                )
                assert "error" in found or found["memory_gb"] > 0
                assert "error" not in found or ": " in found["error"]


def test_the_words_of_no_runtime_hide_another_s_name() -> None:
    for name, texts in FRAMEWORKS.items():
        assert find_runtime(str(texts[0])).name == name
