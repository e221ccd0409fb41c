"""What holds for every tier: in continuous integration nothing is skipped in silence."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

LEFT_OUT = "left out:"
"""A skip that begins so is allowed in CI: the thing to test is not part of this repository."""


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
