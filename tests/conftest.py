"""What holds for every tier: in continuous integration nothing is skipped in silence."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest

LEFT_OUT = "left out:"
"""A skip that begins so is allowed in CI: the thing to test is not part of this repository."""

_MARKED = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.torch\b", re.MULTILINE)

LONGEST_FIRST = (
    "test_parity.py",
    "test_launch_process.py",
    "test_one_line.py",
    "test_cli_local_training.py",
    "test_checkpoint_resume.py",
    "test_launch_node.py",
    "test_stages_agree.py",
    "test_plan_fits_model.py",
    "test_boot.py",
    "test_footprint.py",
    "test_builtin_loop.py",
)
"""Files that take long for the number of their tests: begun last, one worker would end alone.

Runs on two workers keep this order with ``--no-loadscope-reorder``.
"""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import the trainer's tests for a run without torch: that costs 10 seconds.

    Where torch is missing such a run is the only one that works; the torch tier then fails, because
    it finds no test at all.
    """
    without = "not torch" in config.option.markexpr
    if collection_path.suffix != ".py" or not (without or find_spec("torch") is None):
        return None
    return bool(_MARKED.search(collection_path.read_text(encoding="utf-8"))) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where CI is set, unless it is one that is allowed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value) if call.excinfo else ""
        if LEFT_OUT not in reason:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped in CI: {reason}"
    return report
