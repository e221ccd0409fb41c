"""Counting the steps of a script that reports nothing itself."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qwenft_plan.plan import Plan
from qwenft_plan.progress import Progress
from qwenft_trainer import steps
from qwenft_trainer.option import Session
from qwenft_trainer.report import RESULT_VARIABLE

pytestmark = pytest.mark.torch

PLAN = Plan(
    world_size=1, nodes=1, processes_per_node=1, pp=1, dp_replicate=1, dp_shard=1, tp=1,
    micro_batch_size=4, gradient_accumulation_steps=1, global_batch_size=4, sequence_length=8,
)  # fmt: skip


class Recorded:
    def __init__(self) -> None:
        self.updates: list[Progress] = []

    def update(self, progress: Progress) -> None:
        self.updates.append(progress)


def a_session(loss: float | None) -> Session:
    session = Session(PLAN)
    value = None if loss is None else torch.tensor(loss)
    models: list[Any] = session.models
    models.append(SimpleNamespace(last_loss=value))
    return session


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.25)


def test_every_step_is_counted_and_only_the_first_of_an_interval_reported() -> None:
    recorded: Any = Recorded()
    count = steps.StepCount(a_session(1.5), recorded, attempt=3)
    for _ in range(4):
        count(optimizer(), (), {})
    assert count.steps == 4
    assert recorded.updates == [
        Progress(
            attempt=3, step=1, total_steps=0, loss=1.5, learning_rate=0.25, plan_digest=PLAN.digest
        )
    ]


def test_a_run_whose_model_never_trained_has_no_loss() -> None:
    recorded: Any = Recorded()
    count = steps.StepCount(a_session(None), recorded, attempt=1)
    count(optimizer(), (), {})
    assert recorded.updates[0].loss is None
    assert count.result() == {"steps": 1}


def test_the_steps_of_any_optimizer_end_in_the_result(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with steps.reported(a_session(2.0), {RESULT_VARIABLE: str(path)}):
        one = optimizer()
        one.step()
        one.step()
    one.step()  # after the script: not counted
    assert json.loads(path.read_text(encoding="utf-8")) == {"steps": 2, "finalLoss": 2.0}


def test_a_script_that_fails_leaves_no_result(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    block = steps.reported(a_session(2.0), {RESULT_VARIABLE: str(path)})
    block.__enter__()
    error = ValueError("script")
    assert not block.__exit__(ValueError, error, None)
    assert not path.exists()
