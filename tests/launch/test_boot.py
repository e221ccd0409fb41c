"""What a rank does with the name that it was given, and how each end becomes an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launching.plans import make_plan, write_plan
from qwenft_trainer import boot
from qwenft_trainer.failure import TrainerError

pytestmark = pytest.mark.torch

TELL = """
import json, pathlib, sys
pathlib.Path({told!r}).write_text(json.dumps(
    {{"name": __name__, "file": __file__, "argv": sys.argv, "path": sys.path[0]}}
))
"""


@pytest.fixture(name="told", autouse=True)
def isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give back argv, path, directory and variables; return the file in which scripts talk."""
    monkeypatch.setattr(sys, "argv", ["boot"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for name in ("QWENFT_PLAN", "QWENFT_RUN", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    return tmp_path / "told.json"


def script(folder: Path, source: str, name: str = "train.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return str(path)


def heard(told: Path) -> dict[str, Any]:
    found = json.loads(told.read_text())
    assert isinstance(found, dict)
    return found


def refused(*arguments: str) -> str:
    with pytest.raises(TrainerError) as caught:
        boot._run_script(arguments)
    assert caught.value.exit_code == 70
    return str(caught.value)


def test_a_script_finds_itself_as_if_it_was_started_alone(tmp_path: Path, told: Path) -> None:
    name = script(tmp_path, TELL.format(told=str(told)), "deep/train.py")
    boot._run_script([name, "--epochs", "3"])
    assert heard(told) == {
        "name": "__main__",
        "file": name,
        "argv": [name, "--epochs", "3"],
        "path": str(tmp_path / "deep"),
    }


def test_a_script_imports_what_lies_beside_it(tmp_path: Path, told: Path) -> None:
    script(
        tmp_path, f"import pathlib\npathlib.Path({str(told)!r}).write_text('{{}}')", "deep/b_.py"
    )
    boot._run_script([script(tmp_path, "import b_", "deep/a.py")])
    assert heard(told) == {}


def test_a_script_may_be_named_from_where_the_run_started(tmp_path: Path, told: Path) -> None:
    script(tmp_path, TELL.format(told=str(told)))
    boot._run_script(["train.py"])
    assert heard(told)["file"] == f"{tmp_path}/train.py"


def test_a_module_is_found_from_the_current_directory(tmp_path: Path, told: Path) -> None:
    script(tmp_path, "", "fine_tune/__init__.py")
    script(tmp_path, TELL.format(told=str(told)), "fine_tune/run_me.py")
    boot._run_script(["-m", "fine_tune.run_me", "--x"])
    assert heard(told)["name"] == "__main__"
    assert heard(told)["argv"][1:] == ["--x"]


@pytest.mark.parametrize("code", ["", "0", "None"])
def test_a_script_that_exits_cleanly_has_ended_well(tmp_path: Path, code: str) -> None:
    boot._run_script([script(tmp_path, f"import sys; sys.exit({code})")])


@pytest.mark.parametrize("code", ["1", "3", "'no data'", "False + 2"])
def test_a_script_that_exits_otherwise_has_failed_and_is_quoted(tmp_path: Path, code: str) -> None:
    said = refused(script(tmp_path, f"import sys; sys.exit({code})"))
    assert said == f"the script ended itself with sys.exit({eval(code)!r})"  # noqa: S307


def test_a_script_that_does_not_exist_is_named_with_the_directory(tmp_path: Path) -> None:
    said = refused("gone/train.py", "--x")
    assert said == f"the script gone/train.py does not exist (in {tmp_path})"


def test_a_directory_is_no_script(tmp_path: Path) -> None:
    assert "does not exist" in refused(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("raise ValueError('boom')", ValueError),
        ("import no_such_module_here", ModuleNotFoundError),
        ("def f(:", SyntaxError),
    ],
)
def test_a_scripts_own_error_goes_through_as_it_is(
    tmp_path: Path, source: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        boot._run_script([script(tmp_path, source)])


def test_the_built_in_loop_without_a_plan_ends_with_66_and_says_what_it_lacks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert boot.main([]) == 66
    cause = json.loads((tmp_path / "error.json").read_text())["qwenft"]
    assert (cause["exit_code"], cause["reason"]) == (66, "PlanInvalid")
    assert cause["message"].startswith("QWENFT_PLAN names no plan")
    assert "PlanInvalid: QWENFT_PLAN names no plan" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["train.py"], ["-m", "train"]], ids=str)
def test_a_plan_for_another_world_is_refused_before_anything_runs(
    tmp_path: Path, told: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    script(tmp_path, TELL.format(told=str(told)))
    plan = write_plan(tmp_path, make_plan(nodes=2, processes_per_node=2))
    monkeypatch.setenv("QWENFT_PLAN", str(plan))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert boot.main(arguments) == 66
    cause = json.loads((tmp_path / "error.json").read_text())["qwenft"]
    assert f"{plan}: world_size is 4" in cause["message"]
    assert not told.exists()


ENDING = """
import atexit, threading, time
atexit.register(lambda: print("handler", flush=True))
threading.Thread(target=lambda: (time.sleep(0.2), print("thread", flush=True))).start()
print("main")
"""


@pytest.mark.parametrize(("last", "code"), [("", 0), ("raise ValueError(3)", 70)])
def test_a_rank_leaves_at_once_but_a_script_ends_as_it_asked(
    tmp_path: Path, last: str, code: int
) -> None:
    name = script(tmp_path, ENDING + last)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "qwenft_trainer.boot", name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines == (["main", "thread", "handler"] if code == 0 else ["main"])
