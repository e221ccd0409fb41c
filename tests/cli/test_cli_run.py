from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qwenft_cli import local, machine
from qwenft_cli import run as run_verb
from qwenft_cli.machine import Gpu
from qwenft_plan.plan import Plan

Verb = Callable[..., int]

STAND_IN = """
import json, os, sys
plan = json.load(open(os.environ["QWENFT_PLAN"]))
run = json.load(open(os.environ["QWENFT_RUN"]))
print("world", plan["world_size"], "words", sys.argv[1:], "model", run["spec"]["model"]["path"])
print(json.dumps({"attempt": 1, "step": 2, "totalSteps": 2, "loss": 4.0}))
"""
FAILING = """
import os, sys
said = '{"exitCode": 65, "reason": "DatasetInvalid", "message": "/x.pt: cannot be read"}'
open(os.environ["QWENFT_TERMINATION_LOG"], "w").write(said)
sys.exit(65)
"""


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a program in the trainer's place: this tier has no torch."""

    def use(program: str) -> None:
        def words(plan: Plan, script: Sequence[str]) -> list[str]:
            return [sys.executable, "-c", program, str(plan.world_size), *script]

        monkeypatch.setattr(local, "command", words)
        monkeypatch.setattr(run_verb, "_need_trainer", lambda: None)

    return use


@pytest.fixture
def one_node(tiny: Path) -> Path:
    """Write a run that any machine can take."""
    tiny.write_text(tiny.read_text().replace("{min: 2, max: 2}", "{max: 1}"))
    return tiny


def test_a_run_is_planned_for_this_machine_and_shown(
    qwenft: Verb,
    trainer: Callable[[str], None],
    one_node: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer(STAND_IN)
    assert qwenft("run", str(one_node), "--mount", f"/data={tmp_path}", "--processes", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny  Starting")
    assert "world 1" in lines[1]
    assert f"model {tmp_path}/model" in lines[1]
    assert lines[2] == "tiny  Training  step 2/2  loss 4.000"
    assert lines[3].startswith("tiny  Succeeded")


def test_a_plan_file_is_obeyed(
    qwenft: Verb,
    trainer: Callable[[str], None],
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer(STAND_IN)
    qwenft("plan", str(tiny), "--on", "2x1xcpu", "-o", "json")
    (tmp_path / "plan.json").write_text(capsys.readouterr().out)
    assert qwenft("run", str(tiny), "--plan", str(tmp_path / "plan.json")) == 0
    assert "world 2" in capsys.readouterr().out


def test_a_script_gets_the_arguments_after_the_dashes(
    qwenft: Verb,
    trainer: Callable[[str], None],
    one_node: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer(STAND_IN)
    script = tmp_path / "train.py"
    script.write_text("")
    words = ("--script", str(script), "--mount", f"/data={tmp_path}", "--processes", "1")
    assert qwenft("run", str(one_node), *words, "--", "--model", "/data/model") == 0
    assert f"words ['1', '{script}', '--model', '{tmp_path}/model']" in capsys.readouterr().out


def test_a_failed_run_ends_with_the_trainer_s_code_and_cause(
    qwenft: Verb,
    trainer: Callable[[str], None],
    one_node: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer(FAILING)
    assert qwenft("run", str(one_node), "--processes", "1") == 65
    assert "tiny: DatasetInvalid: /x.pt: cannot be read" in capsys.readouterr().err


def test_nothing_is_left_of_the_run_s_own_files(
    qwenft: Verb,
    trainer: Callable[[str], None],
    one_node: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    trainer(STAND_IN)
    qwenft("run", str(one_node), "--processes", "1")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_script_in_a_config_map_needs_its_file(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(tiny.read_text() + "  trainer: {script: {configMap: {name: mine}}}\n")
    assert qwenft("run", str(tiny)) == 2
    assert "--script train.py" in capsys.readouterr().err


def test_a_script_that_is_not_there_is_bad_input(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("run", str(tiny), "--script", "/gone/train.py") == 2
    assert "/gone/train.py: no such file" in capsys.readouterr().err


def test_a_plan_of_another_version_is_bad_input(
    qwenft: Verb, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"schema_version": 9}))
    assert qwenft("run", str(tiny), "--plan", str(tmp_path / "plan.json")) == 2
    assert "plan.json" in capsys.readouterr().err


def test_what_a_run_asks_of_a_cluster_is_not_asked_of_this_machine(
    qwenft: Verb, trainer: Callable[[str], None], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(STAND_IN)
    assert "nodes: {min: 2" in tiny.read_text()
    assert qwenft("run", str(tiny), "--processes", "1") == 0
    told = capsys.readouterr()
    assert "world 1" in told.out
    assert told.err == "note: spec.resources is for a cluster; planned for this machine\n"


def test_a_fixed_degree_that_this_machine_has_no_processes_for_does_not_fit(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(tiny.read_text() + "  parallelism: {dataShard: 4}\n")
    assert qwenft("run", str(tiny), "--processes", "1") == 3
    assert "dataShard" in capsys.readouterr().err


def test_without_torch_the_way_to_get_it_is_shown(
    qwenft: Verb,
    one_node: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert qwenft("run", str(one_node), "--processes", "1") == 1
    assert "pip install 'qwenft[trainer]'" in capsys.readouterr().err


@pytest.mark.parametrize(("section", "file"), [("model", "model"), ("dataset", "set.pt")])
def test_a_directory_that_is_not_there_is_named_with_what_lies_in_it(
    qwenft: Verb,
    one_node: Path,
    tmp_path: Path,
    section: str,
    file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one_node.write_text(one_node.read_text().replace(f"/data/{file}", f"/away/{file}"))
    words = ("--mount", f"/data={tmp_path}", "--mount", f"/away={tmp_path}/none")
    assert qwenft("run", str(one_node), *words) == 2
    told = capsys.readouterr().err
    assert f"--mount /away={tmp_path}/none: there is no such directory" in told
    assert f"spec.{section}.path, /away/{file}, lies in it" in told


def test_a_directory_that_is_only_written_to_is_the_trainer_s_to_make(
    qwenft: Verb, trainer: Callable[[str], None], one_node: Path, tmp_path: Path
) -> None:
    trainer(STAND_IN)
    one_node.write_text(one_node.read_text().replace("/data/out", "/results/out"))
    words = ("--mount", f"/data={tmp_path}", "--mount", f"/results={tmp_path}/new")
    assert qwenft("run", str(one_node), *words, "--processes", "1") == 0


def test_beside_a_gpu_it_is_planned_for_it_and_with_cpu_for_the_cores(
    qwenft: Verb,
    trainer: Callable[[str], None],
    one_node: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer("import os; print('sees', repr(os.environ.get('CUDA_VISIBLE_DEVICES')))")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = (Gpu(name="NVIDIA H100 80GB HBM3", memory=80 * 2**30),)
    monkeypatch.setattr(machine, "ask_torch", lambda: gpus)
    assert qwenft("run", str(one_node)) == 0
    told = capsys.readouterr().out
    assert "H100" in told
    assert "sees None" in told
    assert qwenft("run", str(one_node), "--cpu", "--processes", "1") == 0
    told = capsys.readouterr().out
    assert "1×1 CPU" in told
    assert "sees ''" in told
