"""No collective waits for a lost peer as long as torch would by itself: half an hour."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _world

from parity import tiny
from parity.stand import Stand
from qwenft_trainer import train
from qwenft_trainer.batch import Batch
from qwenft_trainer.checkpoint import CheckpointStore
from qwenft_trainer.mesh import AXES, SET_UP, STEP, bound
from qwenft_trainer.option import Session
from qwenft_trainer.saver import Saver
from qwenft_trainer.together import PATIENCE_SECONDS

pytestmark = pytest.mark.torch

PLAN = tiny.make_plan()


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let this process be the only rank."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    store = dist.FileStore(str(tmp_path / "store"), 1)
    original = dist.init_process_group

    def begin(*arguments: Any, **options: Any) -> None:
        original(*arguments, store=store, rank=0, world_size=1, **options)

    monkeypatch.setattr(dist, "init_process_group", begin)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def limits() -> dict[str, timedelta]:
    """Return each group's time limit by its description."""
    cpu = torch.device("cpu")
    return {
        f"{group.group_name} {group.group_desc}": group._get_backend(cpu).options._timeout
        for group in _world.pg_map
    }


def test_a_script_s_groups_wait_ten_minutes_at_most(environ: None) -> None:
    del environ
    session = Session(PLAN)
    session.enable()
    found = limits()
    assert len(found) >= 1
    assert max(found.values()) <= SET_UP <= timedelta(minutes=10)


def test_every_axis_and_the_saver_s_group_are_bounded(environ: None, tmp_path: Path) -> None:
    del environ
    dist.init_process_group("gloo", timeout=SET_UP)
    model = tiny.write_model(tmp_path / "model", tiny.make_config())
    built = Stand.of(PLAN, model).build()
    Saver(CheckpointStore(directory=tmp_path / "saved", identity="run", attempt=1, keep=1))
    assert max(limits().values()) <= SET_UP
    groups = {built.stages.mesh.get_group(axis) for axis in AXES}
    bound(built.stages.mesh, STEP)
    cpu = torch.device("cpu")
    assert {group._get_backend(cpu).options._timeout for group in groups} == {STEP}
    built.stages.wait_long()
    assert {group._get_backend(cpu).options._timeout for group in groups} == {SET_UP}


def test_after_a_step_a_lost_peer_is_waited_for_two_minutes(environ: None, tmp_path: Path) -> None:
    del environ
    dist.init_process_group("gloo", timeout=SET_UP)
    stand = Stand.of(PLAN, tiny.write_model(tmp_path / "model", tiny.make_config()))
    built = stand.build()
    cpu = torch.device("cpu")
    world = dist.group.WORLD
    assert world is not None
    assert world._get_backend(cpu).options._timeout == SET_UP
    batch = Batch.from_rows(**tiny.make_batches(1)[0])
    built.stages.train_step(batch, trained_tokens=int(batch.trained_tokens))
    assert world._get_backend(cpu).options._timeout == STEP == timedelta(seconds=120)


def test_limits_are_shorter_than_the_patience_of_the_watchdog() -> None:
    assert STEP.total_seconds() < PATIENCE_SECONDS < SET_UP.total_seconds()
    assert train.SET_UP is SET_UP
