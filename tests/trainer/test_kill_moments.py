"""kill -9 at any moment of a save leaves a checkpoint that a next attempt goes on from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from parity import nursery

pytestmark = pytest.mark.torch


def outcomes(folder: Path, *, ranks: int, victim: int, moments: tuple[int, ...]) -> list[Any]:
    """Run saves that are cut off; one outcome for each moment."""
    sources = os.pathsep.join(nursery.sources())
    numbers = [str(value) for value in (ranks, victim, *moments)]
    done = subprocess.run(
        [sys.executable, "-m", "parity.killing", str(folder), *numbers],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": sources},
        stdout=subprocess.PIPE,
        text=True,
        timeout=570,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(outcome: dict[str, Any]) -> None:
    """Assert that the newest checkpoint that is there is whole and was restored."""
    assert outcome["whole"], outcome
    assert outcome["restored"] == outcome["whole"][0], outcome
    assert outcome["restored"] == outcome["found"][0], outcome


def test_a_save_cut_off_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    found = outcomes(tmp_path, ranks=1, victim=0, moments=(2, 9, 17, 26))
    assert [outcome["status"] for outcome in found] == [-9] * 4
    for outcome in found:
        check(outcome)
    assert found[0]["restored"] == 1
    assert found[-1]["restored"] >= 2


@pytest.mark.full
@pytest.mark.parametrize(("ranks", "victim"), [(1, 0), (2, 0), (2, 1)])
def test_no_moment_at_all_leaves_nothing_to_go_on_from(
    tmp_path: Path, ranks: int, victim: int
) -> None:
    found = outcomes(tmp_path, ranks=ranks, victim=victim, moments=())
    *cut, whole = found
    print(f"{ranks} ranks, rank {victim} killed at {len(cut)} moments")
    for outcome in cut:
        assert outcome["status"] == -9, outcome
        check(outcome)
    assert (whole["status"], whole["found"], whole["restored"]) == (0, [3], 3)
    restored = [outcome["restored"] for outcome in cut]
    assert restored == sorted(restored)
    assert set(restored) == {1, 2, 3} or victim != 0
    assert len(cut) >= (20 if victim == 0 else 4)
