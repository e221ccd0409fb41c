"""Saving in the background: what is copied, what is waited for, and whose error is whose."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from parity.plain import Plain
from qwenft_trainer import saver as saver_module
from qwenft_trainer.checkpoint import CheckpointStore
from qwenft_trainer.checkpoint_files import find, verify
from qwenft_trainer.failure import TrainerError
from qwenft_trainer.saver import Saver, copy_bytes

pytestmark = pytest.mark.torch


@pytest.fixture(name="alone", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Held(CheckpointStore):
    """A store whose writing goes on only when it is let; a slow disk."""

    __slots__ = ("gate",)

    def write(self, *arguments: Any) -> None:
        assert self.gate.wait(timeout=60)
        CheckpointStore.write(self, *arguments)


def make(folder: Path, **options: Any) -> CheckpointStore:
    store = CheckpointStore(directory=folder, identity="run", attempt=1, **options)
    store.claim()
    return store


def held(folder: Path, **options: Any) -> tuple[Held, threading.Event]:
    store = Held(directory=folder, identity="run", attempt=1, **options)
    object.__setattr__(store, "gate", threading.Event())
    store.claim()
    return store, store.gate


def steps(folder: Path) -> list[int]:
    return [found.step for found in find(folder)]


def test_training_goes_on_while_the_files_are_written(tmp_path: Path) -> None:
    store, gate = held(tmp_path)
    saver, plain = Saver(store), Plain()
    saver.save(plain.stages, plain.optimizer, 1)
    assert (saver.begun, saver.published) == (1, None)
    assert steps(tmp_path) == []
    plain.train()
    gate.set()
    saver.wait()
    assert (saver.begun, saver.published) == (1, 1)
    assert steps(tmp_path) == [1]


def test_what_is_saved_is_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    store, gate = held(tmp_path)
    saver, plain = Saver(store), Plain()
    plain.train()
    expected = plain.digest()
    saver.save(plain.stages, plain.optimizer, 1)
    plain.train()
    assert plain.digest() != expected
    gate.set()
    saver.wait()
    fresh = Plain()
    assert make(tmp_path).restore(fresh.stages, fresh.optimizer).step == 1
    assert fresh.digest() == expected


def test_a_save_waits_for_the_one_before(tmp_path: Path) -> None:
    store, gate = held(tmp_path)
    saver, plain = Saver(store), Plain()
    saver.save(plain.stages, plain.optimizer, 1)
    threading.Timer(0.2, gate.set).start()
    saver.save(plain.stages, plain.optimizer, 2)
    assert saver.published in (1, 2)
    assert saver.blocked is not None
    assert saver.blocked >= 0.15
    saver.wait()
    assert steps(tmp_path) == [2, 1]


def test_of_a_copy_nothing_stays_once_it_is_written(tmp_path: Path) -> None:
    plain = Plain()
    copies: list[weakref.ref[torch.UntypedStorage]] = []

    class Watched(CheckpointStore):
        def write(self, state: Any, *_: object) -> None:
            copies.extend(weakref.ref(each.untyped_storage()) for each in state["model"].values())

    saver = Saver(Watched(directory=tmp_path, identity="run", attempt=1))
    gc.disable()
    try:
        saver.save(plain.stages, plain.optimizer, 1)
        saver.wait()
        alive = [copy for copy in copies if copy() is not None]
    finally:
        gc.enable()
    assert copies
    assert not alive, "a save every other step would hold one copy of the state after the other"


def test_the_time_waited_for_is_told_beside_the_time_it_took(tmp_path: Path) -> None:
    store, gate = held(tmp_path)
    saver, plain = Saver(store), Plain()
    assert (saver.blocked, saver.seconds) == (None, None)
    saver.save(plain.stages, plain.optimizer, 1)
    assert saver.blocked is not None
    assert saver.seconds is None
    threading.Timer(0.2, gate.set).start()
    saver.wait()
    assert saver.seconds is not None
    assert saver.seconds > saver.blocked
    assert saver.seconds >= 0.15


def test_a_save_that_is_waited_for_lies_there_and_copies_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, plain = Saver(make(tmp_path)), Plain()
    monkeypatch.setattr(saver, "_copied", None)
    saver.save(plain.stages, plain.optimizer, 3, wait=True, seen="all")
    (found,) = find(tmp_path)
    assert (found.step, found.notes) == (3, {"seen": "all"})
    assert verify(found.path, found.files) is None
    assert saver.published == 3


def test_where_memory_is_short_training_waits_for_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, plain = Saver(make(tmp_path)), Plain()
    needed = copy_bytes({"model": dict(plain.stages.named_parameters())})
    monkeypatch.setattr(saver_module, "available_bytes", lambda: float(needed))
    monkeypatch.setattr(saver, "_copied", None)
    saver.save(plain.stages, plain.optimizer, 1)
    assert saver.published == 1


def test_the_ranks_of_a_host_need_room_for_all_their_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, state = Saver(make(tmp_path)), {"model": {"w": torch.zeros(1000)}}
    monkeypatch.setattr(saver_module, "available_bytes", lambda: 10_000.0)
    assert saver._has_room(state)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert not saver._has_room(state)


def test_an_error_of_the_background_is_raised_at_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, plain = Saver(make(tmp_path)), Plain()
    saver.save(plain.stages, plain.optimizer, 1)
    saver.wait()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    saver.save(plain.stages, plain.optimizer, 2)
    with pytest.raises(TrainerError, match=r"step-00000002.*cannot be written.*No space left"):
        saver.save(plain.stages, plain.optimizer, 3)
    assert saver.published == 1
    assert steps(tmp_path) == [1]
    monkeypatch.undo()
    saver.save(plain.stages, plain.optimizer, 3, wait=True)
    assert steps(tmp_path) == [3, 1]


def test_a_failure_in_the_background_shows_at_once_and_is_raised_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gate = held(tmp_path)
    saver, plain = Saver(store), Plain()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    saver.save(plain.stages, plain.optimizer, 1)
    assert not saver.failed
    gate.set()
    assert saver._thread is not None
    saver._thread.join(timeout=60)
    assert saver.failed
    with pytest.raises(TrainerError, match=r"step-00000001.*cannot be written.*No space left"):
        saver.fail()
    assert not saver.failed


def test_a_rank_whose_own_save_went_well_says_that_another_s_did_not(tmp_path: Path) -> None:
    saver, plain = Saver(make(tmp_path)), Plain()
    saver.save(plain.stages, plain.optimizer, 1)
    with pytest.raises(TrainerError, match="after step 1 failed on another rank"):
        saver.fail()


def test_an_attempt_replaced_while_it_writes_publishes_nothing(tmp_path: Path) -> None:
    store, gate = held(tmp_path)
    saver, plain = Saver(store), Plain()
    saver.save(plain.stages, plain.optimizer, 1)
    CheckpointStore(directory=tmp_path, identity="run", attempt=2).claim()
    gate.set()
    with pytest.raises(TrainerError, match=r"attempt 1 was replaced by attempt 2|cannot be"):
        saver.wait()
    assert steps(tmp_path) == []
    assert json.loads((tmp_path / "fence.json").read_text())["attempt"] == 2


def test_a_resumed_run_knows_its_newest_checkpoint(tmp_path: Path) -> None:
    saver = Saver(make(tmp_path), published=7)
    assert (saver.begun, saver.published) == (7, 7)


def test_the_bytes_of_a_copy_are_those_of_its_tensors() -> None:
    state = {"model": {"a": torch.zeros(10), "n": 3}, "optimizer": {"a": {"m": torch.zeros(5)}}}
    assert copy_bytes(state) == 60
