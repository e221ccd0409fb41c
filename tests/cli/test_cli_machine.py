"""What `qwenft run` finds to train on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qwenft_cli import machine
from qwenft_cli.machine import HIDDEN, Gpu, Machine, ask_torch
from qwenft_plan.errors import SpecError

H100 = Gpu(name="NVIDIA H100 80GB HBM3", memory=79 * 2**30)
SMALLER = Gpu(name="NVIDIA H100 80GB HBM3", memory=40 * 2**30)
UNKNOWN = Gpu(name="NVIDIA GeForce GTX 960", memory=2 * 2**30)


def test_without_a_gpu_each_core_is_a_process() -> None:
    (node,) = Machine.look(cpu=False, ask=lambda: None).inventory(3).nodes
    assert (node.product, node.devices) == ("cpu", 3)
    assert node.device_memory_bytes is not None
    assert Machine().inventory().nodes[0].devices >= 1


def test_each_gpu_is_a_device_with_the_least_memory_of_them() -> None:
    found = Machine.look(cpu=False, ask=lambda: (H100, SMALLER))
    (node,) = found.inventory().nodes
    assert (node.device.name, node.devices) == ("H100-80GB", 2)
    assert node.device_memory_bytes == 40 * 2**30
    assert node.host_memory_bytes is not None
    assert found.inventory(1).nodes[0].devices == 1
    assert found.remark == ""


@pytest.mark.parametrize(
    ("gpus", "told"),
    [
        ((UNKNOWN,), "GTX 960, but the planner does not know it"),
        ((H100, Gpu(name="NVIDIA L4", memory=1)), "H100 80GB HBM3 and NVIDIA L4, but they are of"),
        ((), "torch sees no GPU here"),
    ],
)
def test_a_gpu_that_is_not_planned_for_is_told(gpus: tuple[Gpu, ...], told: str) -> None:
    found = Machine.look(cpu=False, ask=lambda: gpus)
    assert told in found.remark
    assert found.inventory(2).nodes[0].product == "cpu"
    assert found.variables(2, planned_here=True) == HIDDEN


def test_the_cores_are_taken_where_they_are_asked_for() -> None:
    found = Machine.look(cpu=True, ask=lambda: (H100,))
    assert found.inventory(1).nodes[0].product == "cpu"
    assert found.variables(1, planned_here=True) == HIDDEN


def test_ranks_see_the_gpus_that_they_were_planned_for() -> None:
    two = Machine.look(cpu=False, ask=lambda: (H100, H100))
    assert two.variables(2, planned_here=True) == {}
    assert two.variables(4, planned_here=False) == HIDDEN, "a plan for four, from elsewhere"
    unknown = Machine.look(cpu=False, ask=lambda: (UNKNOWN,))
    assert unknown.variables(1, planned_here=False) == {}, "a plan file may know better"
    none = Machine.look(cpu=False, ask=lambda: None)
    assert none.variables(8, planned_here=True) == {}, "nothing to hide"


@pytest.mark.parametrize(("gpus", "count"), [(None, 0), ((H100,), 0), ((H100,), 2)])
def test_an_impossible_number_of_processes_is_refused(
    gpus: tuple[Gpu, ...] | None, count: int
) -> None:
    with pytest.raises(SpecError, match=f"--processes: .*{count}"):
        Machine.look(cpu=False, ask=lambda: gpus).inventory(count)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("print('a warning'); print('[[\"NVIDIA L4\", 24]]')", (Gpu(name="NVIDIA L4", memory=24),)),
        ("print('[]')", ()),
        ("raise SystemExit(1)", ()),
        ("pass", ()),
    ],
)
def test_torch_is_asked_where_there_is_a_sign_of_a_gpu(
    answer: str, found: tuple[Gpu, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_QUESTION", answer)
    monkeypatch.setattr(machine, "_SIGNS", (str(tmp_path / "none"),))
    assert ask_torch() is None
    monkeypatch.setattr(machine, "_SIGNS", (str(tmp_path / "none"), sys.executable))
    assert ask_torch() == found
