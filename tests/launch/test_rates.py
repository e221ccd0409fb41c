"""The learning rate of each step, and how many steps a run has."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from qwenft_plan.spec import Training
from qwenft_trainer.failure import DatasetInvalid
from qwenft_trainer.optim import learning_rate, set_learning_rate, total_steps

pytestmark = pytest.mark.torch


def training(**fields: Any) -> Training:
    return Training(**({"learning_rate": 1.0} | fields))


def rates(total: int, **fields: Any) -> list[float]:
    return [learning_rate(training(**fields), step, total) for step in range(total)]


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine"])
def test_warm_up_climbs_evenly_and_reaches_the_full_rate_with_its_last_step(scheduler: str) -> None:
    found = rates(10, warmup_steps=4, scheduler=scheduler)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4] == pytest.approx(1.0)


def test_a_constant_rate_stays() -> None:
    assert rates(5) == [1.0] * 5


def test_a_linear_schedule_falls_evenly_towards_zero() -> None:
    assert rates(4, scheduler="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates(6, scheduler="linear", warmup_steps=2)[2:] == pytest.approx([1, 0.75, 0.5, 0.25])


def test_a_cosine_schedule_is_at_half_its_rate_half_way() -> None:
    found = rates(8, scheduler="cosine")
    assert found == pytest.approx([0.5 * (1 + math.cos(math.pi * n / 8)) for n in range(8)])
    assert found[4] == pytest.approx(0.5)


@pytest.mark.parametrize("scheduler", ["linear", "cosine"])
def test_the_schedules_are_those_of_the_library(scheduler: str) -> None:
    optimization = pytest.importorskip("transformers.optimization")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    theirs = getattr(optimization, f"get_{scheduler}_schedule_with_warmup")(optimizer, 3, 12)
    after_warm_up = []
    for _ in range(12):
        after_warm_up.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    ours = rates(12, warmup_steps=3, scheduler=scheduler)
    assert ours[3:] == pytest.approx(after_warm_up[3:])


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine"])
def test_a_rate_is_never_negative_even_past_the_end(scheduler: str) -> None:
    found = [learning_rate(training(scheduler=scheduler), step, 5) for step in range(10)]
    assert min(found) >= 0.0


def test_a_warm_up_longer_than_the_run_only_climbs() -> None:
    found = rates(3, warmup_steps=10)
    assert found == pytest.approx([0.1, 0.2, 0.3])


def test_a_new_rate_is_every_groups_rate() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [each]} for each in parameters], lr=1.0)
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize(
    ("samples", "batch", "epochs", "limit", "steps"),
    [
        (64, 64, 1, None, 1),
        (127, 64, 1, None, 1),
        (128, 64, 3, None, 6),
        (1000, 16, 2, None, 124),
        (1000, 16, 2, 80, 80),
        (1000, 16, 2, 500, 124),
    ],
)
def test_a_run_has_whole_batches_only_and_no_more_than_asked_for(
    samples: int, batch: int, epochs: int, limit: int | None, steps: int
) -> None:
    asked = training(batch_size=batch, epochs=epochs, max_steps=limit)
    assert total_steps(asked, samples) == steps


@pytest.mark.parametrize("samples", [0, 1, 63])
def test_fewer_samples_than_a_batch_are_refused_with_both_numbers(samples: int) -> None:
    with pytest.raises(DatasetInvalid) as caught:
        total_steps(training(batch_size=64), samples)
    assert f"has {samples} samples" in str(caught.value)
    assert "training.batchSize 64" in str(caught.value)
