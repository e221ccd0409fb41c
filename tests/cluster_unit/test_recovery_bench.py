"""The figures of `make bench-recovery`: how they are read, compared and published."""

from __future__ import annotations

from pathlib import Path

import pytest

import published
from demo.platforms import Embedded
from embedded.configuration import KUBERNETES_DEFAULT, QUICK, NodeLoss
from recovery import bench, page
from recovery.demands import DEMANDS, Demand
from recovery.steps import trained

LOG = """\
2026-11-27T08:38:40.000000000Z resumed after step 4 of 40
2026-11-27T08:38:45.250000000Z {"attempt": 1, "step": 0, "validationLoss": 8.3}
2026-11-27T08:38:47.500000001Z {"attempt": 1, "step": 1, "loss": 8.4}
2026-11-27T08:38:48.750000000Z {"attempt": 1, "step": 2, "loss": 8.1}
2026-11-27T08:38:48.900000000Z {"exitCode": 69, "step": null, "message": "connection lost"}
2026-11-27T08:38:49.000000000Z {"attempt": 1, "step": 3, "lo"""
KNOWN = {
    each.key: {"seconds": [each.most - 1.0] * 10, "date": "2026-01-02", "load": 1}
    for each in DEMANDS
}


def test_only_whole_lines_about_trained_steps_count() -> None:
    found = trained(LOG)
    assert [step for _, step in found] == [1, 2]
    assert found[1][0] - found[0][0] == pytest.approx(1.25, abs=1e-5)


def test_a_log_of_something_else_tells_of_no_step() -> None:
    assert trained("") == []
    assert trained("Error from server: container is waiting to start\n{broken") == []


@pytest.mark.parametrize(
    ("seconds", "met"),
    [
        ([], False),
        ([9.0] * 5 + [10.0] + [30.0] * 5, True),
        ([9.0] * 5 + [10.1] * 6, False),
        ([1.0] * 9, False),
    ],
)
def test_the_median_decides(seconds: list[float], *, met: bool) -> None:
    assert Demand(key="k", what="w", most=10.0).met(seconds) is met


def test_what_was_not_measured_is_not_met() -> None:
    assert page.unmet(KNOWN) == []
    assert page.unmet({}) == [each.what for each in DEMANDS]
    without = {key: found for key, found in KNOWN.items() if key != "node"}
    (missing,) = page.unmet(without)
    assert "node killed" in missing
    assert page.text(without).count("**not met**") == 1
    assert page.NOT_MEASURED in page.text(without)


def test_each_figure_stands_beside_its_limit() -> None:
    slow = KNOWN | {"rank": {"seconds": [11.0, 13.0, 20.04], "date": "2026-01-02", "load": 7}}
    (row,) = [line for line in page.text(slow).splitlines() if "a rank killed" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:5] == ["≤ 12 s", "13.0 s", "11.0 – 20.0 s", "3"]
    assert cells[5:] == ["2026-01-02, load 7", "**not met**: fewer than 10 rounds"]


def test_too_few_rounds_are_told_as_such() -> None:
    few = KNOWN | {"rank": {"seconds": [1.0, 1.0], "date": "2026-01-02", "load": 7}}
    assert page.unmet(few) == ["a rank killed → next new step trained"]
    assert page.text(few).count("**not met**: fewer than 10 rounds |") == 1


def test_rounds_can_be_added_to_those_that_are_there() -> None:
    first = bench.figures({"rank": [1.0, 2.0]}, {})
    assert bench.figures({"rank": [3.004]}, first)["rank"]["seconds"] == [1.0, 2.0, 3.0]
    assert bench.figures({"rank": [3.0]}, {})["rank"]["seconds"] == [3.0]


def test_writing_leaves_the_rest_of_the_page_alone(tmp_path: Path) -> None:
    shown = tmp_path / "performance.md"
    published.put(shown, "make bench", "# Performance\n\nfast\n")
    bench.write(KNOWN, tmp_path / "figures.json", shown)
    published.put(shown, "make bench", "# Performance\n\nfaster\n")
    bench.write(KNOWN, tmp_path / "figures.json", shown)
    text = shown.read_text(encoding="utf-8")
    assert text.count("# Performance") == text.count("## Recovery") == 1
    assert "faster" in text
    assert text.index("# Performance") < text.index("## Recovery")


def test_a_part_without_its_end_is_not_written_over(tmp_path: Path) -> None:
    shown = tmp_path / "performance.md"
    shown.write_text("<!-- from make bench -->\nby hand\n", encoding="utf-8")
    with pytest.raises(ValueError, match="never closed by <!-- to make bench -->"):
        published.put(shown, "make bench", "new")
    assert "by hand" in shown.read_text(encoding="utf-8")


def test_the_cluster_is_started_anew_only_for_other_timings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[NodeLoss] = []

    def set_up(target: Embedded) -> object:
        started.append(target.cluster.loss)
        return object()

    monkeypatch.setattr(bench, "set_up", set_up)
    stands = bench.Stands()
    for name in ("life", "node", "node_by_default", "node_by_default"):
        stands(name)
    assert started == [QUICK, KUBERNETES_DEFAULT]
    stands("operator")
    assert started[-1] == QUICK


@pytest.mark.parametrize("names", [["flood"], ["life", "flood"]])
def test_an_unknown_event_is_refused_with_those_that_there_are(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main(names)
    assert "no event flood; there are life, node, operator" in capsys.readouterr().err
