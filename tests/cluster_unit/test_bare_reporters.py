"""The lag of reports, as `make bench-operator` counts it."""

from __future__ import annotations

import pytest

from bare import page
from bare.reporters import Seen, lags, percentile

FOUND = {
    "runs": 200, "every_seconds": 5.0, "seconds": 120.0, "reports": 4800, "refused": {},
    "answered_p99_seconds": 0.1, "lag_p50_seconds": 3.0, "lag_p99_seconds": 9.9,
    "status_writes": 3000, "cpu_percent": 49.9, "resident_mib": 100, "peak_mib": 110, "load": 3,
}  # fmt: skip


def test_a_report_is_shown_by_its_own_step_or_a_later_one() -> None:
    seen = Seen(
        sent=[("a", 1, 10.0), ("a", 2, 15.0), ("b", 1, 10.0)],
        shown=[("a", 2, 16.0), ("b", 1, 12.0), ("b", 7, 30.0)],
    )
    assert lags(seen) == [1.0, 2.0, 6.0]


def test_an_older_step_or_another_run_shows_nothing() -> None:
    seen = Seen(sent=[("a", 2, 10.0)], shown=[("a", 1, 11.0), ("b", 2, 11.0), ("b", 3, 25.0)])
    assert lags(seen) == [15.0], "late until the end"


def test_nothing_sent_has_no_lag() -> None:
    assert lags(Seen()) == []
    assert percentile([], 0.99) == 0.0


@pytest.mark.parametrize(("share", "value"), [(0.0, 0), (0.5, 50), (0.99, 99), (1.0, 99)])
def test_a_percentile_is_one_of_the_values(share: float, value: int) -> None:
    assert percentile(range(100), share) == value


@pytest.mark.parametrize(
    ("changed", "unmet"),
    [({}, 0), ({"lag_p99_seconds": 10.0}, 1), ({"cpu_percent": 50.0, "lag_p99_seconds": 11}, 2)],
)
def test_each_figure_is_compared_with_its_limit(changed: dict[str, float], unmet: int) -> None:
    assert page.text({"reports": FOUND | changed}).count("**not met**") == unmet


def test_reports_that_were_not_taken_are_told() -> None:
    assert "not taken: {'429': 3}" in page.text({"reports": FOUND | {"refused": {"429": 3}}})
