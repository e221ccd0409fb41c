"""A row of a table becomes a workload and a layout whose degrees multiply to its devices."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from planning import row
from qwenft_plan.errors import SpecError
from qwenft_plan.row import Question, parse_row
from qwenft_plan.row_cells import count

TRUTH = Path(__file__).parents[1] / "truth" / "measured_runs.csv"


def parsed(**columns: Any) -> Question:
    return parse_row(row(**columns))


@pytest.mark.parametrize(
    ("columns", "degrees"),
    [
        ({}, {"dp_shard": 8}),
        ({"fsdp": "4"}, {"dp_shard": 4, "dp_replicate": 2}),
        ({"fsdp": "1"}, {"dp_shard": 8}),
        ({"fsdp": "1", "dp": "8"}, {"dp_shard": 8}),
        ({"fsdp": "8", "dp": "1"}, {"dp_shard": 8}),
        ({"fsdp": "8", "dp": "8"}, {"dp_shard": 8}),
        ({"fsdp": "4", "tp": "2"}, {"dp_shard": 4, "tp": 2}),
        ({"fsdp": "2", "tp": "2", "pp": "2"}, {"dp_shard": 2, "tp": 2, "pp": 2}),
        ({"fsdp": "4", "cp": "2"}, {"dp_shard": 4, "cp": 2}),
        ({"fsdp": "1", "zero": "0"}, {"dp_replicate": 8}),
        ({"fsdp": "1", "zero": "zero-1 group=4"}, {"dp_shard": 4, "dp_replicate": 2}),
        ({"fsdp": "1", "zero": "", "framework": "Megatron-DeepSpeed"}, {"dp_replicate": 8}),
        ({"n_gpus": "64", "fsdp": "8", "tp": "2"}, {"dp_shard": 8, "dp_replicate": 4, "tp": 2}),
    ],
)
def test_degrees_are_read_and_the_rest_of_the_devices_replicate(
    columns: dict[str, str], degrees: dict[str, int]
) -> None:
    layout = parsed(**columns).layout
    found = {
        name: getattr(layout, name)
        for name in ("dp_shard", "dp_replicate", "tp", "pp", "cp")
        if getattr(layout, name) > 1
    }
    assert found == degrees


@pytest.mark.parametrize(
    ("columns", "micro", "accumulation"),
    [
        ({}, 1, 2),
        ({"micro_batch": "2"}, 2, 1),
        ({"global_batch": "64", "micro_batch": "2"}, 2, 4),
        ({"global_batch": "64", "micro_batch": ""}, 1, 8),
        ({"global_batch": "", "micro_batch": "4"}, 4, 1),
        ({"global_batch": "", "micro_batch": ""}, 1, 1),
        ({"global_batch": "8", "micro_batch": "4"}, 1, 1),
        ({"global_batch": "20", "micro_batch": "1"}, 1, 3),
        ({"global_batch": "", "micro_batch": "1", "fsdp": "4", "pp": "2"}, 1, 4),
        ({"global_batch": "16", "micro_batch": "", "fsdp": "4", "pp": "2"}, 2, 2),
        ({"global_batch": "", "framework": "device_map naive", "fsdp": "1"}, 1, 1),
    ],
)
def test_the_batch_is_cut_as_printed_and_filled_in_where_it_is_not(
    columns: dict[str, str], micro: int, accumulation: int
) -> None:
    layout = parsed(**columns).layout
    assert (layout.micro_batch, layout.accumulation) == (micro, accumulation)


@pytest.mark.parametrize("words", ["HF device_map=auto", "naive model parallel"])
def test_a_device_map_is_a_pipeline_of_all_devices_that_run_one_by_one(words: str) -> None:
    layout = parsed(framework=words, fsdp="1").layout
    assert (layout.pp, layout.schedule, layout.world_size) == (8, "naive", 8)


def test_a_device_map_on_one_device_is_no_pipeline() -> None:
    layout = parsed(framework="device_map", fsdp="1", n_gpus="1").layout
    assert (layout.pp, layout.schedule) == (1, "1F1B")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"fsdp": "4", "pp": "2", "vpp": "2"}, 2),
        ({"fsdp": "4", "pp": "2", "vpp": ""}, 1),
        ({"vpp": "4"}, 1),
    ],
)
def test_chunks_of_a_pipeline_count_where_there_is_a_pipeline(
    columns: dict[str, str], expected: int
) -> None:
    assert parsed(**columns).layout.virtual_stages == expected


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, 8),
        ({"gpus_per_node": ""}, 8),
        ({"gpus_per_node": "4"}, 4),
        ({"n_gpus": "2", "fsdp": "2"}, 2),
        ({"n_gpus": "2", "fsdp": "2", "gpus_per_node": ""}, 2),
        ({"n_gpus": "16", "gpus_per_node": "16"}, 16),
    ],
)
def test_a_node_has_its_printed_devices_but_never_more_than_the_run(
    columns: dict[str, str], expected: int
) -> None:
    assert parsed(**columns).work.per_node == expected


@pytest.mark.parametrize(
    ("framework", "precision", "expected"),
    [
        ("torchtitan(FSDP2)", "bf16", "torchtitan"),
        ("Megatron-LM", "bf16", "megatron"),
        ("Megatron-LM", "fp16", "megatron-early"),
        ("", "bf16", "qwenft"),
        ("DeepSpeed", "fp16", "deepspeed"),
    ],
)
def test_the_runtime_follows_from_framework_and_precision(
    framework: str, precision: str, expected: str
) -> None:
    assert parsed(framework=framework, precision=precision).work.runtime.name == expected


@pytest.mark.parametrize(("recompute", "expected"), [("full", False), ("full+SP", True)])
def test_an_early_megatron_splits_sequences_where_the_row_says_so(
    recompute: str, *, expected: bool
) -> None:
    found = parsed(framework="Megatron", precision="fp16", recompute=recompute)
    assert found.work.runtime.sequence_parallel is expected


@pytest.mark.parametrize(
    ("columns", "fused"),
    [
        ({}, None),
        ({"framework": "torchtitan + Liger"}, True),
        ({"framework": "torchtune chunked CE"}, True),
        ({"framework": "HF Trainer, fused CE"}, True),
        ({"framework": "cut cross entropy"}, True),
    ],
)
def test_a_fused_loss_is_recognised(columns: dict[str, str], *, fused: bool | None) -> None:
    assert parsed(**columns).work.fused_loss is fused


@pytest.mark.parametrize(
    ("framework", "flash"),
    [
        ("HF Trainer", True),
        ("HF Trainer eager", False),
        ("HF Trainer, no flash", False),
        ("HF flash_attn=false", False),
        ("Megatron-DeepSpeed", False),
    ],
)
def test_attention_without_a_flash_kernel_is_recognised(framework: str, *, flash: bool) -> None:
    assert parsed(framework=framework).work.flash is flash


@pytest.mark.parametrize(
    ("framework", "compiled"), [("torchtitan + torch.compile", True), ("torchtitan", False)]
)
def test_a_compiled_run_is_recognised(framework: str, *, compiled: bool) -> None:
    assert parsed(framework=framework).work.compiled is compiled


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, ("full", "adamw", False)),
        ({"kind": "lora"}, ("lora", "adamw", False)),
        ({"kind": "QLoRA sft"}, ("qlora", "adamw", False)),
        ({"optimizer": "adamw_8bit"}, ("full", "adamw8bit", False)),
        ({"framework": "DeepSpeed ZeRO-3 offload"}, ("full", "adamw", True)),
    ],
)
def test_the_method_is_found_in_kind_framework_and_optimizer(
    columns: dict[str, str], expected: tuple[str, str, bool]
) -> None:
    method = parsed(**columns).work.method
    assert (method.kind, method.optimizer, method.offload_optimizer) == expected


def test_a_missing_sequence_length_is_the_product_s_default() -> None:
    assert parsed(seq_len="").work.sequence_length == 2048


def test_the_network_that_a_row_prints_wins_over_the_table() -> None:
    plain, slow = parsed(), parsed(interconnect="1x100Gb IB per node")
    assert slow.work.device.network == 12.5e9
    assert plain.work.device.network > slow.work.device.network


def test_a_row_of_nothing_asks_for_a_device_first() -> None:
    with pytest.raises(SpecError) as caught:
        parse_row({})
    assert caught.value.path == "gpu"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("8", 8), (8, 8), (8.0, 8), ("8.0", 8), (" 8 ", 8), ("8 (a)", 8), ("", None), (None, None)],
)
def test_a_count_is_read_from_text_and_numbers(value: object, expected: int | None) -> None:
    assert count({"n": value}, "n") == expected


def test_an_absent_count_is_none() -> None:
    assert count({}, "n") is None


def test_every_measured_run_multiplies_to_its_devices() -> None:
    with TRUTH.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    seen = 0
    for line in lines:
        try:
            question = parse_row(line)
        except SpecError as error:
            assert "mixture" in error.message, error
            continue
        seen += 1
        assert question.layout.world_size == int(float(line["n_gpus"] or 1))
    assert seen > 0.8 * len(lines)
