"""Curves in the trackers that people have, which never hold a run up."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from launching.plans import environ, make_plan, spec
from qwenft_plan.progress import Progress
from qwenft_trainer import trackers
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.settings import read_settings
from qwenft_trainer.trackers import About, Trackers, about, check, values_of

pytestmark = pytest.mark.torch


def told(folder: Path, *, begin: int = 0) -> About:
    settings = {"model": "Qwen/Qwen3-8B", "learning_rate": 1e-5}
    return About(name="tune", identity="id-1", logs=folder / "logs", settings=settings, begin=begin)


def at(step: int, loss: float = 2.0, **values: Any) -> Progress:
    return Progress(attempt=1, step=step, total_steps=100, loss=loss, **values)


def complaints(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


class Kept:
    """A tracker that keeps what it gets."""

    def __init__(self, told_: About) -> None:
        self.about, self.closed = told_, False
        self.steps: dict[int, Mapping[str, float]] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.steps[step] = values

    def close(self) -> None:
        self.closed = True


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    return [(event.step, round(event.value, 6)) for event in events.Scalars(name)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_curves_back(tmp_path: Path) -> None:
    board = Trackers(["tensorboard"], told(tmp_path))
    for step in (1, 2, 3):
        board.update(at(step, 4.0 - step, learning_rate=0.5, gradient_norm=1.5))
    board.evaluated(3, 1.25)
    board.evaluated(4, None)
    board.close(patience=60)
    assert curve(tmp_path, "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert curve(tmp_path, "train/learning_rate") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert curve(tmp_path, "train/grad_norm")[0] == (1, 1.5)
    assert curve(tmp_path, "eval/loss") == [(3, 1.25)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_attempt_takes_the_steps_back_that_it_trains_again(tmp_path: Path) -> None:
    first = Trackers(["tensorboard"], told(tmp_path))
    for step in (1, 2, 3):
        first.update(at(step, 10.0))
    first.close(patience=60)
    second = Trackers(["tensorboard"], told(tmp_path, begin=1))
    for step in (2, 3):
        second.update(at(step, 7.0))
    second.close(patience=60)
    assert curve(tmp_path, "train/loss") == [(1, 10.0), (2, 7.0), (3, 7.0)]


class FakeWandb(types.ModuleType):
    """Stands in for the package, which is not installed here: its three calls, recorded."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: dict[str, Any] = {}
        self.logged: list[tuple[int, Mapping[str, float]]] = []
        self.finished = False

    def init(self, **options: Any) -> FakeWandb:
        self.started = options
        return self

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture(name="wandb")
def stand_in_for_wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_weights_and_biases_goes_on_with_the_runs_curves(tmp_path: Path, wandb: FakeWandb) -> None:
    board = Trackers(["wandb"], told(tmp_path))
    board.update(at(4))
    board.evaluated(4, 1.5)
    board.close()
    assert wandb.started["project"] == "qwenft"
    assert (wandb.started["id"], wandb.started["resume"]) == ("id-1", "allow")
    assert wandb.started["dir"] == str(tmp_path / "logs")
    assert wandb.started["config"]["learning_rate"] == 1e-5
    assert wandb.logged == [
        (4, {"train/loss": 2.0, "train/global_step": 4}),
        (4, {"eval/loss": 1.5, "train/global_step": 4}),
    ]
    assert wandb.finished


def test_the_environment_names_project_and_run(
    tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "support")
    monkeypatch.setenv("WANDB_NAME", "mine")
    Trackers(["wandb"], told(tmp_path)).close()
    assert (wandb.started["project"], wandb.started["name"]) == ("support", "mine")


class FakeMlflow(types.ModuleType):
    """Stands in for the package, which is not installed here: its calls, recorded in order."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> None:
            self.calls.append((name, (*arguments, options) if options else arguments))

        return call


def test_mlflow_gets_its_names_and_a_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    board = Trackers(["mlflow"], told(tmp_path))
    board.update(at(4, gradient_norm=3.0))
    board.evaluated(4, 1.5)
    board.close()
    assert mlflow.calls == [
        ("set_tracking_uri", (f"sqlite:///{tmp_path}/logs/mlflow.db",)),
        ("set_experiment", ("qwenft",)),
        ("start_run", ({"run_name": "tune"},)),
        ("log_params", ({"model": "Qwen/Qwen3-8B", "learning_rate": 1e-5},)),
        ("log_metrics", ({"loss": 2.0, "grad_norm": 3.0}, {"step": 4})),
        ("log_metrics", ({"eval_loss": 1.5}, {"step": 4})),
        ("end_run", ()),
    ]


def test_mlflow_writes_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    Trackers(["mlflow"], told(tmp_path)).close()
    assert "set_tracking_uri" not in dict(mlflow.calls)
    assert not (tmp_path / "logs").exists()


def test_a_package_that_is_not_there_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(trackers.PACKAGES, "wandb", "wandb_that_is_nowhere")
    with pytest.raises(PlanInvalid, match=r"names wandb, but the package 'wandb_that_is_nowhere'"):
        check(["tensorboard", "wandb"])
    check(["tensorboard"])
    check([])


def test_a_tracker_that_does_not_start_is_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept(told(tmp_path))

    def refused(_: About) -> Kept:
        raise ConnectionError("no route to host")

    board = Trackers(["a", "b"], told(tmp_path), {"a": refused, "b": lambda _: kept})
    board.update(at(1))
    board.close()
    assert complaints(capsys) == [
        "a: ConnectionError: no route to host; training goes on without it"
    ]
    assert list(kept.steps) == [1]
    assert kept.closed


def test_an_error_is_told_once_until_it_works_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Shaky(Kept):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            if step in (1, 2, 4):
                raise OSError(f"lost {step}")
            super().log(step, values)

    kept = Shaky(told(tmp_path))
    board = Trackers(["a"], told(tmp_path), {"a": lambda _: kept})
    for step in range(1, 6):
        board.update(at(step))
    board.close()
    assert [line.split(";")[0] for line in complaints(capsys)] == [
        "a: OSError: lost 1",
        "a: OSError: lost 4",
    ]
    assert list(kept.steps) == [3, 5]


def test_an_address_that_does_not_answer_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = threading.Event()

    class Stuck(Kept):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            gate.wait(timeout=60)
            super().log(step, values)

    monkeypatch.setattr(trackers, "WAITING", 3)
    kept = Stuck(told(tmp_path))
    board = Trackers(["a"], told(tmp_path), {"a": lambda _: kept})
    for step in range(1, 50):
        board.update(at(step))
    thread = board._thread
    board.close(patience=0.1)
    assert thread is not None
    assert thread.is_alive()
    (told_,) = complaints(capsys)
    assert told_ == "a: not everything was written within 0 s; curves end early"
    assert kept.steps == {}
    gate.set()


def test_without_trackers_there_is_no_thread(tmp_path: Path) -> None:
    board = Trackers([], told(tmp_path))
    board.update(at(1))
    board.close()
    assert board._thread is None


def test_what_is_not_known_yet_has_no_value() -> None:
    assert values_of(at(1)) == {"train/loss": 2.0}
    values = values_of(at(1, memory_gib=60.0, predicted_memory_gib=61.0, data_wait_seconds=0.5))
    assert values["train/memory_gib"] == 60.0
    assert values["train/predicted_memory_gib"] == 61.0
    assert values["train/data_wait_seconds"] == 0.5


def test_trackers_are_told_of_the_request_and_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWENFT_NAME", "support")
    plan = make_plan(accumulation=2)
    settings = read_settings(environ(tmp_path, plan, spec(tmp_path)))
    found = about(settings, begin=7)
    assert (found.name, found.begin, found.identity) == ("support", 7, settings.identity)
    assert found.logs == tmp_path / "out" / "logs"
    assert found.settings["model"] == f"{tmp_path}/model"
    assert found.settings["batch_size"] == 4
    assert found.settings["gradient_accumulation_steps"] == 2
