"""When nothing fits, the reasons hold numbers and what would fit instead."""

from __future__ import annotations

import re
from typing import Any

import pytest

from planning import config, planned, refusal, request
from qwenft_plan.errors import Infeasible
from qwenft_plan.inventory import Inventory, NodeShape
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import plan

SMALL, SEVEN, LARGE = "Qwen/Qwen2.5-0.5B", "Qwen/Qwen1.5-7B", "Qwen/Qwen2.5-72B"
TINY = {"path": "/data/model", "config": config()}


@pytest.mark.parametrize(
    ("on", "name", "sections"),
    [
        ("1x1xL4", SEVEN, {}),
        ("1x1xH100", SEVEN, {}),
        ("1x8xA100-40G", LARGE, {}),
        ("2x1xcpu-4G", SEVEN, {}),
        ("1x1xL4", SMALL, {"parallelism": {"activationCheckpointing": "none"},
                           "training": {"sequenceLength": 32768}}),
        ("1x8xH100", SEVEN, {"parallelism": {"dataReplicate": 8}}),
        ("1x1xMI300X", "Qwen/Qwen3-32B", {}),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_how_much_is_missing_of_how_much(
    on: str, name: str, sections: dict[str, Any]
) -> None:
    first = refusal(on, name, **sections)[0]
    found = re.search(r"needs ([\d.]+) GiB of ([\d.]+) \(([\d.]+) GiB too much\)", first)
    assert found is not None, first
    needed, usable, missing = map(float, found.groups())
    assert needed - usable == pytest.approx(missing, abs=0.11)
    assert missing > 0


def test_the_first_reason_names_the_plan_that_misses_least() -> None:
    first = refusal("1x1xH100", SEVEN)[0]
    assert first.startswith("1×1 H100-80GB · micro-batch 1 · full recompute: needs")


def test_the_reasons_are_the_error_s_text() -> None:
    spec = request(SEVEN)
    with pytest.raises(Infeasible) as caught:
        plan(spec=spec, model=ModelShape.for_spec(spec.model), inventory=Inventory.parse("1x1xL4"))
    assert str(caught.value) == "; ".join(caught.value.reasons)
    assert all(caught.value.reasons)


def test_reasons_are_the_same_each_time() -> None:
    assert refusal("1x1xL4", SEVEN) == refusal("1x1xL4", SEVEN)


def test_no_nodes_at_all_are_put_down_to_what_nodes_must_be() -> None:
    reasons = refusal(Inventory(nodes=()))
    assert reasons == ("no node is ready, schedulable and matched by the node selector",)


@pytest.mark.parametrize(
    ("on", "resources", "expected"),
    [
        ("2x4xcpu", {"gpusPerNode": 1}, "no GPU node among 2×4 CPU"),
        ("1x8xH100", {"processesPerNode": 2}, "no CPU node among 1×8 H100-80GB"),
    ],
)
def test_nodes_of_the_wrong_kind_are_named(
    on: str, resources: dict[str, int], expected: str
) -> None:
    assert refusal(on, resources=resources) == (expected,)


def test_nodes_whose_devices_are_all_taken_are_not_called_cpu_nodes() -> None:
    busy = NodeShape(name="busy", product="H100", devices=0)
    (reason,) = refusal(Inventory(nodes=(busy,)))
    assert reason == "no free device among 1×0 H100-80GB"


@pytest.mark.parametrize(
    ("on", "resources", "words"),
    [
        ("2x8xH100", {"nodes": {"min": 3}}, "at least 3 nodes with 1 free device each"),
        ("2x4xH100", {"gpusPerNode": 8}, "at least 1 node with 8 free devices each"),
        ("2x4xcpu", {"nodes": {"min": 4}, "processesPerNode": 2}, "at least 4 nodes with 2 free"),
    ],
)
def test_too_few_nodes_are_counted_against_the_inventory(
    on: str, resources: dict[str, Any], words: str
) -> None:
    (reason,) = refusal(on, resources=resources)
    assert words in reason
    assert reason.endswith(f"the inventory is {Inventory.parse(on).describe()}")


@pytest.mark.parametrize(
    ("on", "sections", "words"),
    [
        ("1x8xH100", {"parallelism": {"tensor": 2, "dataShard": 8}}, "tensor 2"),
        ("1x6xH100", {"resources": {"gpusPerNode": 6}}, "batch 64"),
        ("1x4xH100", {"parallelism": {"dataReplicate": 8}}, "dataReplicate 8"),
        ("1x1xH100", {"parallelism": {"dataShard": 2, "microBatchSize": 4}}, "microBatchSize 4"),
    ],
)
def test_degrees_that_do_not_multiply_to_the_devices_are_repeated(
    on: str, sections: dict[str, Any], words: str
) -> None:
    (reason,) = refusal(on, **sections)
    assert reason.startswith("no degrees multiply to the devices of")
    assert words in reason


@pytest.mark.parametrize(
    ("on", "name", "sections", "remedy"),
    [
        ("1x1xH100", SEVEN, {}, "LoRA"),
        ("1x1xH100", SEVEN, {}, "QLoRA"),
        ("1x1xB200", "Qwen/Qwen1.5-4B", {"parallelism": {"activationCheckpointing": "none"},
                             "training": {"sequenceLength": 32768}}, "sequences of"),
        ("1x8xA100-40G", LARGE, {}, "A100-40GB"),
        ("1x1xL40S", "Qwen/Qwen1.5-4B", {"training": {"sequenceLength": 512}},
         "an optimizer offloaded to the host"),
        ("1x1xH100", "Qwen/Qwen1.5-4B", {}, "8-bit Adam"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_would_fit(
    on: str, name: str, sections: dict[str, Any], remedy: str
) -> None:
    *_, last = refusal(on, name, **sections)
    assert last.startswith("what would fit: ")
    assert remedy in last


def test_the_larger_inventory_that_a_refusal_names_does_hold_the_request() -> None:
    *_, last = refusal("1x4xA100-40G", LARGE)
    found = re.search(r"(\d+)×(\d+) A100-40GB", last)
    assert found is not None, last
    nodes, devices = found.groups()
    result = planned(f"{nodes}x{devices}xA100-40G", LARGE)
    assert result.plan.world_size <= int(nodes) * int(devices)


def test_the_shorter_sequences_that_a_refusal_names_do_fit() -> None:
    sections = {"parallelism": {"activationCheckpointing": "none", "microBatchSize": 1}}
    *_, last = refusal("1x1xL4", training={"sequenceLength": 16384}, **sections)
    found = re.search(r"sequences of (\d+) tokens", last)
    assert found is not None, last
    length = int(found[1])
    result = planned("1x1xL4", training={"sequenceLength": length}, **sections)
    assert result.plan.sequence_length == length


@pytest.mark.parametrize("name", [SEVEN, LARGE])
def test_nothing_is_changed_in_silence_to_make_a_request_fit(name: str) -> None:
    fixed = {"activationCheckpointing": "none", "microBatchSize": 64}
    assert "micro-batch 64" in refusal("1x1xH100", name, parallelism=fixed)[0]
    assert "recompute" not in refusal("1x1xH100", name, parallelism=fixed)[0]


def test_a_model_that_no_number_of_nodes_could_hold_asks_for_larger_devices() -> None:
    fixed = {"dataReplicate": 1, "dataShard": 1, "tensor": 1, "pipeline": 1}
    *_, last = refusal("1x1xL4", LARGE, parallelism=fixed)
    assert "devices with more than" in last
    assert "GiB" in last
