"""Small parts of the loop: speed, stopping, where a model comes from, file sizes of an export."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as some

from parity.tiny import make_plan
from qwenft_plan.plan import Plan, Predicted
from qwenft_plan.progress import Progress
from qwenft_plan.spec import Dataset, FinetuneSpec, Model, Output
from qwenft_trainer import meter as meters
from qwenft_trainer import preemption, sources
from qwenft_trainer.export import file_numbers
from qwenft_trainer.failure import ModelInvalid
from qwenft_trainer.generate import end_token, read_tokenizer
from qwenft_trainer.meter import Meter
from qwenft_trainer.preemption import StopSignal
from qwenft_trainer.settings import Settings
from qwenft_trainer.sources import find_model, source_of
from qwenft_trainer.train import due
from qwenft_trainer.weights import Checkpoint, Fresh

pytestmark = pytest.mark.torch


class Listener:
    """Stands in for the reporter."""

    def __init__(self) -> None:
        self.told: list[Progress] = []
        self.result: Any = None
        self.closed = False

    def update(self, progress: Progress) -> None:
        self.told.append(progress)

    def finish(self, result: Any) -> None:
        self.result = result

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time in a list that the test sets; memory is 1 GiB throughout."""
    now = [0.0]
    monkeypatch.setattr(meters.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(meters, "peak_memory", lambda: 1.0)
    return now


def make_meter(plan: Plan | None = None) -> tuple[Meter, Listener]:
    spec = FinetuneSpec(
        model=Model(path="/data/m"), dataset=Dataset(path="/data/d"), output=Output(path="/data/o")
    )
    chosen = Settings(plan=plan or make_plan(), spec=spec, attempt=3, identity="x")
    listener = Listener()
    return Meter(chosen, total=10, reporter=listener), listener  # type: ignore[arg-type]


def test_speed_is_the_median_steps(clock: list[float]) -> None:
    meter, _ = make_meter()
    meter.start(step=0, validation_loss=None)
    for step, at in enumerate([10.0, 11.0, 12.0, 13.0], start=1):  # the first one warms up
        clock[0] = at
        meter.stepped(step=step, tokens=100)
    assert meter.tokens_per_second == pytest.approx(100.0)


def test_the_rest_is_estimated_from_the_steps(clock: list[float]) -> None:
    meter, listener = make_meter()
    meter.start(step=0, validation_loss=None)
    for step in (1, 2, 3):
        clock[0] += 2.0
        meter.stepped(step=step, tokens=100)
    assert listener.told[-1].estimated_remaining_seconds == pytest.approx(14.0)


def test_evaluations_and_saves_do_not_count_as_slow_steps(clock: list[float]) -> None:
    meter, _ = make_meter()
    meter.start(step=0, validation_loss=None)
    for step in (1, 2, 3):
        with meter.paused():
            clock[0] += 50.0
        clock[0] += 1.0
        meter.stepped(step=step, tokens=100)
    assert meter.tokens_per_second == pytest.approx(100.0)


def test_a_report_carries_attempt_plan_and_numbers(clock: list[float]) -> None:
    meter, listener = make_meter()
    meter.start(step=4, validation_loss=2.5)
    clock[0] = 1.0
    meter.stepped(step=5, tokens=10, loss=1.5, learning_rate=0.1, gradient_norm=0.3)
    last = listener.told[-1]
    assert (last.attempt, last.step, last.total_steps) == (3, 5, 10)
    assert (last.loss, last.learning_rate, last.gradient_norm) == (1.5, 0.1, 0.3)
    assert last.validation_loss == 2.5
    assert last.memory_gib == 1.0
    assert last.plan_digest == make_plan().digest
    assert last.mfu is None


def test_the_last_report_repeats_the_last_loss(clock: list[float]) -> None:
    meter, listener = make_meter()
    meter.start(step=0, validation_loss=3.0)
    clock[0] = 1.0
    meter.stepped(step=10, tokens=10, loss=1.5)
    meter.finish({"steps": 10}, step=10, validation_loss=1.25, checkpoint_step=10)
    last = listener.told[-1]
    assert (last.loss, last.validation_loss, last.checkpoint_step) == (1.5, 1.25, 10)
    assert listener.result == {"steps": 10}
    assert listener.closed


def test_utilisation_scales_the_prediction_by_the_speed(clock: list[float]) -> None:
    predicted = Predicted(memory_gib=1.0, tokens_per_second=200.0, mfu=0.4)
    meter, listener = make_meter(make_plan(predicted=predicted))
    meter.start(step=0, validation_loss=None)
    clock[0] = 1.0
    meter.stepped(step=1, tokens=100)
    assert listener.told[-1].mfu == pytest.approx(0.2)


@pytest.mark.usefixtures("alone")
def test_peak_memory_is_what_the_process_has_used() -> None:
    assert 0.05 < meters.peak_memory() < 64.0


@pytest.fixture
def alone(tmp_path: Path) -> Any:
    """Make a process group of one."""
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_request_to_stop_is_noted_and_the_process_lives() -> None:
    with StopSignal() as stop:
        assert stop.anywhere() == (False, False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.anywhere(also=True) == (True, True)


def test_the_former_handler_comes_back() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) is not former
    assert signal.getsignal(signal.SIGTERM) is former
    assert preemption.signal is signal


def test_a_directory_with_safetensors_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert source_of(tmp_path, seed=1) == Checkpoint(path=tmp_path)


def test_a_directory_with_a_config_only_starts_from_the_seed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert source_of(tmp_path, seed=4) == Fresh(seed=4)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "w.pt", "model.safetensors.index.json"])
def test_weights_in_another_form_never_start_from_random_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelInvalid, match=name):
        source_of(tmp_path, seed=1)


def test_a_model_path_that_is_no_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="absent is no directory"):
        find_model(Model(path=str(tmp_path / "absent")), local_rank=0)
    assert find_model(Model(path=str(tmp_path)), local_rank=0) == tmp_path


def test_a_hub_that_cannot_be_reached_is_an_error_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no route")

    monkeypatch.setattr(sources, "snapshot_download", unreachable)
    with pytest.raises(ModelInvalid, match="Qwen/none cannot be fetched"):
        find_model(Model(name="Qwen/none"), local_rank=0)


def test_a_directory_without_tokenizer_has_none(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path) is None


@pytest.mark.parametrize(("end", "expected"), [(None, None), (7, 7), ([9, 8], 9)])
def test_the_token_that_ends_a_text(end: Any, expected: int | None) -> None:
    class Config:
        eos_token_id = end

    assert end_token(Config()) == expected


@given(some.dictionaries(some.text("abc", min_size=1), some.integers(1, 100), min_size=1))
@settings(max_examples=100, deadline=None)
def test_no_export_file_of_several_parameters_is_too_large(sizes: dict[str, int]) -> None:
    numbers = file_numbers(sizes, limit=120)
    files: dict[int, list[int]] = {}
    for name, number in numbers.items():
        files.setdefault(number, []).append(sizes[name])
    assert numbers.keys() == sizes.keys()
    assert sorted(files) == list(range(1, len(files) + 1))
    assert all(len(parts) == 1 or sum(parts) <= 120 for parts in files.values())


@pytest.mark.parametrize(
    ("step", "every", "expected"),
    [(4, 2, True), (5, 2, False), (4, None, False), (1, 1, True)],
)
def test_what_happens_every_so_many_steps(step: int, every: int | None, *, expected: bool) -> None:
    assert due(step, every) == expected
