"""Committed plans: whoever changes one sees it in the diff."""

from __future__ import annotations

import pytest

from planning.golden import FOLDER, REQUESTS, replay


@pytest.mark.parametrize("name", REQUESTS)
def test_a_committed_plan_is_what_the_planner_still_says(name: str) -> None:
    committed = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert replay(name) == committed, "run PYTHONPATH=tests/support python -m planning.golden"


def test_no_committed_plan_is_orphaned() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(REQUESTS)
