"""Steps, learning rates and which parameters decay."""

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from qwenft_plan.spec import Training
from qwenft_trainer.failure import DatasetInvalid
from qwenft_trainer.optim import build_optimizer, learning_rate, set_learning_rate, total_steps

pytestmark = pytest.mark.torch


class Named:
    """Stands in for stages: parameters with names."""

    def __init__(self) -> None:
        self.values = {
            "model.layers.0.mlp.up_proj.weight": nn.Parameter(torch.ones(2, 2)),
            "model.layers.0.self_attn.q_proj.bias": nn.Parameter(torch.ones(2)),
            "model.norm.weight": nn.Parameter(torch.ones(2)),
        }

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.values.items())


def rates(training: Training, total: int) -> list[float]:
    return [learning_rate(training, step, total) for step in range(total)]


def test_a_constant_rate() -> None:
    assert rates(Training(learning_rate=0.5), 4) == [0.5] * 4


def test_a_warm_up_reaches_the_full_rate_with_its_last_step() -> None:
    training = Training(learning_rate=1.0, warmup_steps=4)
    assert rates(training, 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_runs_to_zero() -> None:
    training = Training(learning_rate=1.0, scheduler="linear")
    assert rates(training, 4) == [1.0, 0.75, 0.5, 0.25]
    assert learning_rate(training, 4, 4) == 0.0


def test_linear_after_a_warm_up_runs_over_what_is_left() -> None:
    training = Training(learning_rate=1.0, scheduler="linear", warmup_steps=2)
    assert rates(training, 6) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


def test_cosine_is_half_way_in_the_middle() -> None:
    training = Training(learning_rate=2.0, scheduler="cosine")
    assert learning_rate(training, 0, 8) == 2.0
    assert learning_rate(training, 4, 8) == pytest.approx(1.0)
    assert learning_rate(training, 8, 8) == pytest.approx(0.0)


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine"])
def test_no_schedule_rises_after_the_warm_up(scheduler: str) -> None:
    found = rates(Training(learning_rate=1.0, scheduler=scheduler, warmup_steps=3), 20)[3:]
    assert found == sorted(found, reverse=True)
    assert min(found) >= 0.0


def test_a_warm_up_longer_than_the_run_never_divides_by_zero() -> None:
    training = Training(learning_rate=1.0, warmup_steps=10, scheduler="linear")
    assert rates(training, 3) == pytest.approx([0.1, 0.2, 0.3])


def test_the_schedules_agree_with_transformers() -> None:
    for name in ("linear", "cosine"):
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        theirs = get_scheduler(name, optimizer, num_warmup_steps=0, num_training_steps=10)
        training = Training(learning_rate=1.0, scheduler=name)
        for step in range(10):
            rate = optimizer.param_groups[0]["lr"]
            assert learning_rate(training, step, 10) == pytest.approx(rate)
            optimizer.step()
            theirs.step()


def test_only_matrices_decay() -> None:
    stages = Named()
    optimizer = build_optimizer(stages, Training(weight_decay=0.1))  # type: ignore[arg-type]
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    found = {name: decay[id(value)] for name, value in stages.values.items()}
    assert found == {
        "model.layers.0.mlp.up_proj.weight": 0.1,
        "model.layers.0.self_attn.q_proj.bias": 0.0,
        "model.norm.weight": 0.0,
    }


def test_every_parameter_is_optimised_once() -> None:
    stages = Named()
    optimizer = build_optimizer(stages, Training())  # type: ignore[arg-type]
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(stages.values)


def test_the_rate_is_set_for_all_groups() -> None:
    optimizer = build_optimizer(Named(), Training())  # type: ignore[arg-type]
    set_learning_rate(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}


@pytest.mark.parametrize(
    ("samples", "choices", "expected"),
    [
        (64, {}, 8),
        (71, {}, 8),
        (64, {"epochs": 3}, 24),
        (64, {"epochs": 3, "max_steps": 10}, 10),
        (64, {"max_steps": 100}, 8),
        (8, {}, 1),
    ],
)
def test_the_number_of_steps(samples: int, choices: dict[str, int], expected: int) -> None:
    assert total_steps(Training(batch_size=8, **choices), samples) == expected


def test_fewer_samples_than_a_batch_are_refused_with_both_numbers() -> None:
    with pytest.raises(DatasetInvalid, match=r"7 samples.*batchSize 8"):
        total_steps(Training(batch_size=8), 7)
