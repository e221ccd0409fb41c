from __future__ import annotations

from pathlib import Path

import pytest

from embedded import stages
from embedded.stages import StageError


def test_a_stage_prints_its_name_and_its_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with stages.stage("network"):
        pass
    assert capsys.readouterr().out == "  network … 0.0 s\n"


def test_a_failed_stage_says_so_and_names_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(StageError) as caught,
        stages.stage("network", remedy="plug it in"),
    ):
        raise StageError("no carrier")
    assert "failed after" in capsys.readouterr().out
    assert caught.value.report() == "failed: no carrier\nto do: plug it in"


def test_a_remedy_nearer_to_the_fault_wins() -> None:
    with (
        pytest.raises(StageError) as caught,
        stages.stage("network", remedy="plug it in"),
    ):
        raise StageError("no carrier", remedy="buy a cable")
    assert caught.value.remedy == "buy a cable"


def test_an_interrupted_stage_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), stages.stage("network"):
        raise KeyboardInterrupt
    assert "stopped after" in capsys.readouterr().out


def test_a_report_ends_with_the_logs_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    report = StageError("broke", log=log).report()
    assert "line 99" in report
    assert "line 79\n" not in report


def test_a_log_that_was_never_written_is_not_shown(tmp_path: Path) -> None:
    assert StageError("broke", log=tmp_path / "none").report() == "failed: broke"


def test_a_command_returns_what_it_prints() -> None:
    assert stages.run(["cat"], stdin="spoken") == "spoken"


def test_a_failed_command_says_why() -> None:
    with pytest.raises(StageError, match="exited with 3: sorry"):
        stages.run(["sh", "-c", "echo sorry >&2; exit 3"])


def test_a_missing_program_is_named() -> None:
    with pytest.raises(StageError, match="no-such-program") as caught:
        stages.run(["no-such-program"])
    assert caught.value.remedy == "install no-such-program"


def test_a_logged_command_speaks_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log"
    assert stages.run(["sh", "-c", "echo out; echo err >&2"], log=log) == ""
    assert stages.run(["echo", "more"], log=log) == ""
    lines = log.read_text().splitlines()
    assert lines[1:3] == ["out", "err"]
    assert lines[3:] == ["$ echo more", "more"]


def test_a_failed_logged_command_points_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(StageError) as caught:
        stages.run(["sh", "-c", "echo the cause; exit 1"], log=log)
    assert "the cause" in caught.value.report()


def test_a_condition_that_holds_is_not_waited_for() -> None:
    stages.wait_until(lambda: True, seconds=0, what="truth")


def test_a_condition_is_asked_until_it_holds() -> None:
    answers = iter([False, False, True])
    stages.wait_until(lambda: next(answers), seconds=5, what="the third answer", every=0)
    assert list(answers) == []


def test_a_condition_that_never_holds_is_named() -> None:
    with pytest.raises(StageError, match="peace did not come true within 0 s"):
        stages.wait_until(lambda: False, seconds=0, what="peace", every=0)


def test_proxies_do_not_come_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy:3128")
    monkeypatch.setenv("KEPT", "1")
    environment = stages.direct_environment()
    assert environment["KEPT"] == "1"
    assert not [
        name for name in environment if name.lower().endswith("_proxy") and name != "no_proxy"
    ]
