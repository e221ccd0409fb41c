"""The two halves of a question derive what both estimators need."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from planning import UNFUSED, layout, work
from qwenft_plan.workload import Method


@pytest.mark.parametrize(
    ("degrees", "world", "dp"),
    [
        ({}, 1, 1),
        ({"dp_shard": 8}, 8, 8),
        ({"dp_replicate": 2, "dp_shard": 4}, 8, 8),
        ({"tp": 2, "pp": 4}, 8, 1),
        ({"cp": 2, "dp_shard": 3}, 6, 3),
        ({"pp": 2, "dp_replicate": 3, "dp_shard": 5, "tp": 7, "cp": 11}, 2310, 15),
    ],
)
def test_degrees_multiply_to_the_devices_in_use(
    degrees: dict[str, int], world: int, dp: int
) -> None:
    shape = layout(**degrees)
    assert (shape.world_size, shape.dp) == (world, dp)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1),
        ({"micro_batch": 4, "accumulation": 3}, 12),
        ({"dp_shard": 8, "dp_replicate": 2, "micro_batch": 2, "accumulation": 2}, 64),
        ({"tp": 8, "pp": 4, "cp": 2, "accumulation": 5}, 5),
    ],
)
def test_a_step_s_samples_are_those_of_all_data_parallel_ranks(
    changes: dict[str, int], expected: int
) -> None:
    assert layout(**changes).global_batch == expected


@pytest.mark.parametrize(
    ("precision", "expected"), [("bf16_mixed", 2), ("bf16_pure", 2), ("fp8", 2), ("fp32", 4)]
)
def test_an_activation_has_the_bytes_of_its_precision(precision: str, expected: int) -> None:
    assert work(precision=precision).element_bytes == expected


@pytest.mark.parametrize(
    ("default", "asked", "expected"),
    [
        (True, None, True),
        (False, None, False),
        (True, False, False),
        (False, True, True),
    ],
)
def test_flash_attention_is_the_runtime_s_default_unless_asked(
    default: bool,  # noqa: FBT001 - a table's column
    asked: bool | None,  # noqa: FBT001 - a table's column
    expected: bool,  # noqa: FBT001 - a table's column
) -> None:
    question = work(runtime=replace(UNFUSED, flash=default), flash_attention=asked)
    assert question.flash is expected


def test_the_default_method_trains_everything_with_adamw_on_the_device() -> None:
    method = Method()
    assert (method.kind, method.optimizer, method.offload_optimizer) == ("full", "adamw", False)


@pytest.mark.parametrize(
    ("thing", "field"), [(layout(), "tp"), (work(), "per_node"), (Method(), "rank")]
)
def test_a_question_cannot_change_while_it_is_answered(thing: object, field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(thing, field, 2)
