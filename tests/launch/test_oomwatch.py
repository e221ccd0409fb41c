"""The kernel's counter of kills for memory, as control groups write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenft_trainer import oomwatch

EVENTS = """\
low 0
high 12
max 4711
oom 3
oom_kill {kills}
oom_group_kill 9
"""


@pytest.mark.parametrize("kills", [0, 1, 17])
def test_the_kernels_counter_is_read(tmp_path: Path, kills: int) -> None:
    events = tmp_path / "memory.events"
    events.write_text(EVENTS.format(kills=kills))
    assert oomwatch.kills(events) == kills


@pytest.mark.parametrize("kills", [0, 4])
def test_the_older_control_groups_tell_it_too(tmp_path: Path, kills: int) -> None:
    control = tmp_path / "memory.oom_control"
    control.write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
    assert oomwatch.kills(control) == kills
    assert oomwatch.kills(tmp_path / "memory.events", control) == kills


@pytest.mark.parametrize("content", [b"", b"low 0\noom 5\n", b"\xff\xfe\x00"])
def test_a_file_without_the_counter_counts_nothing(tmp_path: Path, content: bytes) -> None:
    events = tmp_path / "memory.events"
    events.write_bytes(content)
    assert oomwatch.kills(events) == 0


def test_a_machine_without_such_a_file_counts_nothing(tmp_path: Path) -> None:
    assert oomwatch.kills(tmp_path / "memory.events") == 0


def test_where_control_groups_cannot_be_listed_nothing_is_counted(tmp_path: Path) -> None:
    assert oomwatch.kills(tmp_path) == 0
