from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwenft_cli.__main__ import VERBS, main
from qwenft_cli.access import Address
from qwenft_cli.failure import CliError

Make = Callable[..., dict[str, Any]]
Verb = Callable[..., int]
WORDS = {
    "plan", "estimate", "render", "run", "prepare", "submit", "status", "logs", "events",
    "suspend", "resume", "report", "completion",
}  # fmt: skip


def test_every_verb_of_the_contract_is_there() -> None:
    assert {module.NAME for module in VERBS} == WORDS


@pytest.mark.parametrize("verb", sorted(WORDS))
def test_every_verb_has_a_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"qwenft {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", sorted(WORDS))
def test_help_fits_eighty_columns(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("words", [["dance"], ["plan"], ["prepare"], ["status", "a", "--colour"]])
def test_words_that_make_no_command_are_bad_input(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_without_a_word_all_verbs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert all(f"    {verb}" in said.err for verb in WORDS)


def test_only_a_run_takes_words_for_another_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["status", "--", "x"])
    assert caught.value.code == 2
    assert "status takes no words after --" in capsys.readouterr().err


def test_the_version_is_the_distribution_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("qwenft ")


def test_as_a_plugin_it_goes_by_the_plugin_s_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/kubectl-qft"])
    assert main(["suspend", "gone"], no_cluster) == 1
    assert capsys.readouterr().err.startswith("kubectl qft: no cluster")


def no_cluster(_address: Address) -> Any:
    raise CliError("no cluster", next_step="Set KUBECONFIG.")


def test_an_error_is_a_sentence_and_the_next_step(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny)], no_cluster) == 1
    captured = capsys.readouterr()
    assert captured.err == "qwenft: no cluster\n  Set KUBECONFIG.\n"
    assert captured.out == ""


def test_ctrl_c_is_counted_as_shells_count_it(tiny: Path) -> None:
    def interrupted(_address: Address) -> Any:
        raise KeyboardInterrupt

    assert main(["plan", str(tiny)], interrupted) == 130


def test_a_wrong_notation_is_bad_input(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(tiny), "--on", "lots"], no_cluster) == 2
    assert "--on: expected NODESxDEVICESxPRODUCT" in capsys.readouterr().err


def test_what_fits_nowhere_has_a_code_of_its_own(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny), "--on", "1x1xcpu"], no_cluster) == 3
    error = capsys.readouterr().err
    assert error.startswith("qwenft: no plan fits:\n  - needs at least 2 nodes")


def test_status_lists_the_runs(
    cluster: Any, qwenft: Verb, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = {"step": 3, "totalSteps": 10, "loss": 2.5}
    cluster.stored = {
        "a": make_run("a", phase="Training", progress=progress, workers={"ready": "2/2"}),
        "b": make_run("b"),
    }
    assert qwenft("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "PHASE", "STEP", "LOSS", "WORKERS", "RESTARTS", "AGE"]
    assert lines[1].split()[:6] == ["a", "Training", "3/10", "2.500", "2/2", "0"]
    assert lines[2].split()[:2] == ["b", "Pending"]


def test_a_pipe_gets_no_blanks_at_the_ends_of_lines(
    cluster: Any, qwenft: Verb, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored["tiny"] = make_run(phase="Training", plan={"summary": "2×1 CPU"})
    for words in (["status"], ["status", "tiny"]):
        assert qwenft(*words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines
        assert [line for line in lines if line != line.rstrip()] == []


def test_status_without_runs_says_what_to_type(
    qwenft: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("status") == 0
    assert "qwenft submit FILE" in capsys.readouterr().out


def test_status_of_one_run_draws_it(
    cluster: Any, qwenft: Verb, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored["tiny"] = make_run(phase="Training", plan={"summary": "2×1 CPU"})
    assert qwenft("status", "tiny") == 0
    assert "2×1 CPU" in capsys.readouterr().out


def test_status_as_json_is_the_object(
    cluster: Any, qwenft: Verb, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored["tiny"] = make_run(phase="Training")
    assert qwenft("status", "tiny", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == {"phase": "Training"}


def test_who_wrote_which_field_is_nobody_s_business(
    cluster: Any, qwenft: Verb, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored["tiny"] = body = make_run()
    body["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    for words in (["status", "-o", "json"], ["status", "tiny", "-o", "json"]):
        assert qwenft(*words) == 0
        assert "managedFields" not in capsys.readouterr().out
    assert "managedFields" in body["metadata"]


def test_all_runs_cannot_be_watched(qwenft: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert qwenft("status", "--watch") == 2
    assert "--watch follows one run" in capsys.readouterr().err


def test_watching_a_finished_run_gives_its_code(cluster: Any, qwenft: Verb, make_run: Make) -> None:
    cluster.stored = {
        "good": make_run("good", phase="Succeeded"),
        "bad": make_run("bad", phase="Failed"),
    }
    assert qwenft("status", "good", "--watch") == 0
    assert qwenft("status", "bad", "--watch") == 1


def test_an_unknown_run_is_said_to_be_unknown(
    qwenft: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("status", "gone") == 1
    assert '"gone" not found' in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "value"), [("suspend", True), ("resume", False)])
def test_suspend_and_resume_turn_one_switch(
    cluster: Any,
    qwenft: Verb,
    make_run: Make,
    verb: str,
    value: bool,  # noqa: FBT001 - a table
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster.stored["tiny"] = make_run()
    assert qwenft(verb, "tiny") == 0
    assert capsys.readouterr().out.endswith("see qwenft status tiny -n default\n")
    assert cluster.stored["tiny"]["spec"]["runPolicy"] == {"suspend": value}


def test_events_are_listed(
    cluster: Any,
    qwenft: Verb,
    make_run: Make,
    make_event: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster.stored["tiny"] = make_run()
    cluster.stored_events = [
        make_event("Planned", "2×1 CPU"),
        make_event("Failed", "no file", type="Warning", count=3),
        make_event("Other", "not ours", run="other"),
    ]
    assert qwenft("events", "tiny") == 0
    out = capsys.readouterr().out
    assert "Planned" in out
    assert "no file (3 times)" in out
    assert "not ours" not in out


def test_no_events_are_explained(
    cluster: Any, qwenft: Verb, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored["tiny"] = make_run()
    assert qwenft("events", "tiny") == 0
    assert "forgets them after an hour" in capsys.readouterr().out


@pytest.mark.parametrize(("verb", "value"), [("suspend", True), ("resume", False)])
def test_suspend_and_resume_as_json_print_the_object_and_nothing_else(
    cluster: Any,
    qwenft: Verb,
    make_run: Make,
    verb: str,
    value: bool,  # noqa: FBT001 - a table
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster.stored["tiny"] = make_run(phase="Training")
    cluster.stored["tiny"]["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    assert qwenft(verb, "tiny", "-o", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["spec"]["runPolicy"] == {"suspend": value}
    assert told["status"] == {"phase": "Training"}
    assert "managedFields" not in told["metadata"]


def test_a_refusal_prints_no_json(qwenft: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert qwenft("suspend", "gone", "-o", "json") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert '"gone" not found' in said.err


def test_events_as_json_are_the_objects(
    cluster: Any,
    qwenft: Verb,
    make_run: Make,
    make_event: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster.stored["tiny"] = make_run()
    cluster.stored_events = [make_event("Planned", "2×1 CPU")]
    assert qwenft("events", "tiny", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)[0]["reason"] == "Planned"


def test_submit_applies_the_file_in_its_namespace(
    cluster: Any, qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("submit", str(tiny), "-n", "team") == 0
    assert cluster.stored["tiny"]["metadata"] == {"name": "tiny", "namespace": "team"}
    assert "qwenft status tiny -n team --watch" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_submit_as_json_prints_what_the_cluster_stores(
    qwenft: Verb, tiny: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("submit", str(tiny), "-n", "team", "-o", "json", *flags) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "QwenFineTune"
    assert told["metadata"] == {"name": "tiny", "namespace": "team"}


@pytest.mark.parametrize(("phase", "code"), [("Succeeded", 0), ("Failed", 1)])
def test_submit_that_watches_prints_one_object_when_the_run_has_ended(
    cluster: Any,
    qwenft: Verb,
    make_run: Make,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "run", lambda _name: make_run(phase=phase))
    assert qwenft("submit", str(tiny), "--watch", "-o", "json") == code
    assert json.loads(capsys.readouterr().out)["status"] == {"phase": phase}


def test_a_dry_run_stores_nothing(cluster: Any, qwenft: Verb, tiny: Path) -> None:
    assert qwenft("submit", str(tiny), "--dry-run") == 0
    assert (cluster.dry_runs, cluster.stored) == (1, {})


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    rows = "".join('{"model": "none"}\n' for _ in range(20_000))
    (tmp_path / "rows").write_text(rows)
    script = f"{sys.executable} -m qwenft_cli estimate < rows | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_the_module_is_the_command(tiny: Path) -> None:
    words = [sys.executable, "-m", "qwenft_cli", "plan", str(tiny), "--on", "2x1xcpu"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2×1 CPU")


def test_the_client_library_is_not_loaded_for_planning(tiny: Path) -> None:
    code = (
        "import sys; from qwenft_cli.__main__ import main;"
        f"main(['plan', {str(tiny)!r}, '--on', '2x1xcpu']);"
        "print([m for m in ('kubernetes', 'kopf', 'torch') if m in sys.modules])"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
