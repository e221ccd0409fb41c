from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from qwenft_cli import local
from qwenft_cli.document import load
from qwenft_cli.failure import BAD_INPUT, CliError
from qwenft_cli.local import Mount
from qwenft_cli.snapshot import Snapshot
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec

PLAN = Plan(
    world_size=2, nodes=1, processes_per_node=2, pp=1, dp_replicate=1, dp_shard=2, tp=1,
    micro_batch_size=4, gradient_accumulation_steps=1, global_batch_size=8, sequence_length=64,
)  # fmt: skip
START = Snapshot(name="tiny", phase="Starting")
REPORT = '{"attempt": 1, "step": 1, "totalSteps": 2, "loss": 5.0}'


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/data/model", "/here/model"),
        ("/data", "/here"),
        ("/data/a/b.pt", "/here/a/b.pt"),
        ("/database/x", "/database/x"),
        ("/other", "/other"),
        ("Qwen/Qwen1.5-7B", "Qwen/Qwen1.5-7B"),
    ],
)
def test_a_mount_point_stands_for_a_directory(path: str, where: str) -> None:
    assert Mount(point="/data", directory=Path("/here")).here(path) == where


def test_mounts_are_read_and_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local.mounts(["/data/=sub"]) == (Mount(point="/data", directory=tmp_path / "sub"),)


@pytest.mark.parametrize("text", ["", "data=here", "/data", "/data=", "=here"])
def test_a_mount_of_another_form_is_bad_input(text: str) -> None:
    with pytest.raises(CliError) as caught:
        local.mounts([text])
    assert caught.value.exit_code == BAD_INPUT


def test_the_first_mount_that_knows_a_path_decides() -> None:
    places = (Mount(point="/a", directory=Path("/x")), Mount(point="/b", directory=Path("/y")))
    assert local.here("/b/f", places) == "/y/f"
    assert local.here("/c/f", places) == "/c/f"


@pytest.mark.parametrize(
    ("word", "there"),
    [
        ("/data/m", "/here/m"),
        ("--model=/data/m", "--model=/here/m"),
        ("--model=/other", "--model=/other"),
        ("--lr=1e-3", "--lr=1e-3"),
        ("a=/data/m", "a=/data/m"),
    ],
)
def test_a_script_s_words_name_this_machine_s_paths(word: str, there: str) -> None:
    places = (Mount(point="/data", directory=Path("/here")),)
    assert local.word_here(word, places) == there


def test_the_run_file_reads_as_a_request_with_this_machine_s_paths(tiny: Path) -> None:
    run = local.run_file(load(str(tiny)), (Mount(point="/data", directory=Path("/here")),))
    spec = FinetuneSpec.from_mapping(run["spec"])
    assert spec.model.path == "/here/model"
    assert spec.dataset.path == "/here/set.pt"
    assert spec.output.path == "/here/out"
    assert spec.dataset.volume is None
    assert (run["name"], run["namespace"]) == ("tiny", "local")


def test_the_file_of_the_user_is_not_changed(tiny: Path) -> None:
    document = load(str(tiny))
    local.run_file(document, (Mount(point="/data", directory=Path("/here")),))
    assert document.body["spec"]["model"]["path"] == "/data/model"


def test_every_run_has_a_uid_of_its_own(tiny: Path) -> None:
    document = load(str(tiny))
    assert local.run_file(document, ())["uid"] != local.run_file(document, ())["uid"]


def test_the_trainer_finds_plan_and_run(tiny: Path, tmp_path: Path) -> None:
    run = local.run_file(load(str(tiny)), ())
    environ = local.environment(PLAN, run, tmp_path, {"PATH": "/bin", "OMP_NUM_THREADS": "7"})
    assert Plan.load(Path(environ["QWENFT_PLAN"])) == PLAN
    assert json.loads(Path(environ["QWENFT_RUN"]).read_text()) == run
    assert environ["QWENFT_UID"] == run["uid"]
    assert environ["PATH"] == "/bin"
    assert environ["OMP_NUM_THREADS"] == "7"


def test_the_cores_are_shared_among_the_processes(tiny: Path, tmp_path: Path) -> None:
    environ = local.environment(PLAN, local.run_file(load(str(tiny)), ()), tmp_path, {})
    assert int(environ["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 2)


def test_the_command_starts_every_process_here() -> None:
    assert local.command(PLAN, ("train.py", "--lr", "1")) == [
        sys.executable, "-m", "qwenft_trainer", "--standalone", "--nnodes=1",
        "--nproc-per-node=2", "train.py", "--lr", "1",
    ]  # fmt: skip


def followed(script: str, folder: Path) -> tuple[local.Outcome, list[Snapshot], list[str]]:
    """Follow a program that behaves as the trainer does."""
    shown: list[Snapshot] = []
    echoed: list[str] = []
    environ = {**os.environ, "QWENFT_TERMINATION_LOG": str(folder / "termination.json")}
    words = [sys.executable, "-c", script]
    outcome = local.follow(words, environ, START, shown.append, echoed.append)
    return outcome, shown, echoed


def ending(message: str) -> str:
    return f"import os; open(os.environ['QWENFT_TERMINATION_LOG'], 'w').write({message!r});"


def test_reports_are_shown_and_other_lines_echoed(tmp_path: Path) -> None:
    script = f"print('loading'); print({REPORT!r}); print('a warning')"
    outcome, shown, echoed = followed(script, tmp_path)
    assert echoed == ["loading", "a warning"]
    assert [snapshot.phase for snapshot in shown] == ["Training", "Succeeded"]
    assert outcome.exit_code == 0


def test_errors_are_read_too(tmp_path: Path) -> None:
    _, _, echoed = followed("import sys; print('oh', file=sys.stderr)", tmp_path)
    assert echoed == ["oh"]


def test_the_result_comes_from_the_termination_message(tmp_path: Path) -> None:
    said = '{"exitCode": 0, "reason": "Completed", "result": {"trainedTokens": 5}}'
    outcome, _, echoed = followed(ending(said) + f"print({said!r})", tmp_path)
    assert outcome.snapshot.result == {"trainedTokens": 5}
    assert echoed == []


def test_a_typed_failure_keeps_code_and_cause(tmp_path: Path) -> None:
    said = '{"exitCode": 65, "reason": "DatasetInvalid", "message": "no file", "rank": 1}'
    outcome, _, _ = followed(ending(said) + "raise SystemExit(65)", tmp_path)
    failure = outcome.snapshot.failure
    assert (outcome.exit_code, outcome.snapshot.phase) == (65, "Failed")
    assert failure is not None
    assert (failure.reason, failure.message, failure.rank) == ("DatasetInvalid", "no file", 1)


def test_a_trainer_that_dies_without_a_word_has_failed_all_the_same(tmp_path: Path) -> None:
    outcome, _, _ = followed("import os; os._exit(9)", tmp_path)
    assert outcome.exit_code == 9
    assert outcome.snapshot.failure is not None
    assert "no message" in outcome.snapshot.failure.message


def test_after_ctrl_c_the_trainer_has_time_to_save(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    script = (
        f"import pathlib, time; print({REPORT!r}, flush=True); time.sleep(0.5);"
        f"pathlib.Path({str(saved)!r}).touch()"
    )

    def interrupted(_snapshot: Snapshot) -> None:
        raise KeyboardInterrupt

    environ = {**os.environ, "QWENFT_TERMINATION_LOG": str(tmp_path / "none")}
    with pytest.raises(KeyboardInterrupt):
        local.follow([sys.executable, "-c", script], environ, START, interrupted, print)
    assert saved.exists()


def test_a_trainer_that_does_not_end_after_ctrl_c_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_GRACE_SECONDS", 0.2)
    script = f"import time; print({REPORT!r}, flush=True); time.sleep(600)"

    def interrupted(_snapshot: Snapshot) -> None:
        raise KeyboardInterrupt

    environ = {**os.environ, "QWENFT_TERMINATION_LOG": str(tmp_path / "none")}
    with pytest.raises(KeyboardInterrupt):
        local.follow([sys.executable, "-c", script], environ, START, interrupted, print)
