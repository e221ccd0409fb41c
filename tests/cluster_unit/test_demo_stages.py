"""The demo's choices and words, without a cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from demo import __main__ as program
from demo import install, platforms, training
from demo.platforms import Embedded, Given, Images, Kind
from embedded import layout
from embedded.stages import StageError
from qwenft_cli.failure import CliError
from qwenft_cli.snapshot import Snapshot

IMAGES = Images(
    operator="registry/op:1", trainer="registry/tr:1", operator_build="xyz", trainer_build="abc"
)


@dataclass(kw_only=True)
class Recorder:
    """A platform whose kubectl answers from a table and keeps what it was asked."""

    title: str = "test"
    kubeconfig: Path = Path("/kubeconfig")
    folder: str = "/volume"
    asked: list[tuple[tuple[str, ...], str | None]] = field(default_factory=list)
    answers: list[tuple[str, list[str]]] = field(default_factory=list)

    def tool(self, name: str) -> str:
        return name

    def up(self) -> None:
        """Nothing to start."""

    def images(self) -> Images:
        return IMAGES

    def place_of(self, _claim: str, _namespace: str) -> str:
        return self.folder

    def run(self, words: tuple[str, ...], stdin: str | None) -> str:
        self.asked.append((words, stdin))
        line = " ".join(words)
        for key, texts in self.answers:
            if key in line:
                return texts.pop(0) if len(texts) > 1 else texts[0]
        return ""

    def lines(self) -> list[str]:
        return [" ".join(words) for words, _ in self.asked]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()

    def kubectl(_platform: object, *words: str, stdin: str | None = None) -> str:
        return made.run(words, stdin)

    def run(command: list[str], *, stdin: str | None = None, **_more: object) -> str:
        return made.run(tuple(map(str, command)), stdin)

    for module in (install, training):
        monkeypatch.setattr(module, "kubectl", kubectl)
    monkeypatch.setattr(install, "run", run)
    return made


def job(kind: str = "", build: str = "") -> str:
    conditions = [{"type": kind, "status": "True"}] if kind else []
    annotations = {"qwenft.dev/build": build} if build else {}
    return json.dumps(
        {"metadata": {"annotations": annotations}, "status": {"conditions": conditions}}
    )


# --- which cluster


def test_a_kubeconfig_of_one_s_own_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "mine"))
    assert platforms.choose() == Given(kubeconfig=tmp_path / "mine")


def test_the_embedded_cluster_s_kubeconfig_means_the_embedded_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QWENFT_CACHE", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(layout.from_environment().kubeconfig))
    monkeypatch.setattr(platforms, "_docker_answers", lambda: False)
    assert isinstance(platforms.choose(), Embedded)


@pytest.mark.parametrize(("answers", "kind"), [(True, Kind), (False, Embedded)])
def test_kind_needs_an_engine_that_answers(
    monkeypatch: pytest.MonkeyPatch,
    answers: bool,  # noqa: FBT001 - a table
    kind: type,
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(platforms, "_docker_answers", lambda: answers)
    assert isinstance(platforms.choose(), kind)


@pytest.mark.parametrize(("body", "answers"), [("exit 0", True), ("exit 1", False)])
def test_the_engine_is_asked_not_only_its_client(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    body: str,
    answers: bool,  # noqa: FBT001
) -> None:
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\n{body}\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert platforms._docker_answers() is answers


def test_without_a_client_there_is_no_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert platforms._docker_answers() is False


def test_one_s_own_cluster_needs_images_that_it_can_fetch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPERATOR_IMAGE", "registry/op:1")
    monkeypatch.delenv("TRAINER_IMAGE", raising=False)
    with pytest.raises(StageError, match="TRAINER_IMAGE not set") as caught:
        Given(kubeconfig=Path("/k")).images()
    assert "push" in caught.value.remedy


def test_named_images_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATOR_IMAGE", "registry/op:1")
    monkeypatch.setenv("TRAINER_IMAGE", "registry/tr:2")
    images = Given(kubeconfig=Path("/k")).images()
    assert (images.operator, images.trainer) == ("registry/op:1", "registry/tr:2")


def test_a_missing_tool_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageError, match="helm is not installed") as caught:
        Given(kubeconfig=Path("/k")).tool("helm")
    assert "unset KUBECONFIG" in caught.value.remedy


def test_a_cluster_of_this_machine_is_reached_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("clusters: [{cluster: {server: 'https://10.9.8.7:6443'}}]")
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("NO_PROXY", "")
    for _ in range(2):
        platforms.reach_directly(path)
    assert os.environ["no_proxy"] == "example.org,10.9.8.7"
    assert os.environ["NO_PROXY"] == "10.9.8.7"


# --- installing


def test_helm_gets_the_images_and_their_build(recorder: Recorder, tmp_path: Path) -> None:
    install.helm_install(recorder, IMAGES, tmp_path / "log")
    words, stdin = recorder.asked[-1]
    assert words[:4] == ("helm", "upgrade", "--install", "qwenft")
    assert "--wait" in words
    assert json.loads(stdin or "") == {
        "image": {"repository": "registry/op", "tag": "1"},
        "trainer": {"image": "registry/tr:1"},
        "podAnnotations": {"qwenft.dev/build": "xyz"},
    }


def test_an_interrupted_install_is_cleared_first(recorder: Recorder, tmp_path: Path) -> None:
    recorder.answers = [("list --pending", ["qwenft\n"])]
    install.helm_install(recorder, IMAGES, tmp_path / "log")
    verbs = [line.split()[1] for line in recorder.lines()]
    assert verbs == ["list", "uninstall", "upgrade"]


def test_a_clean_release_is_not_uninstalled(recorder: Recorder, tmp_path: Path) -> None:
    install.helm_install(recorder, IMAGES, tmp_path / "log")
    assert [line.split()[1] for line in recorder.lines()] == ["list", "upgrade"]


def test_the_namespace_admits_restricted_pods_only(recorder: Recorder) -> None:
    install.make_namespace(recorder, "lab")
    body = json.loads(recorder.asked[0][1] or "")
    assert body["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}


def test_the_data_is_made_by_the_trainer_image(recorder: Recorder) -> None:
    recorder.answers = [("get job", ["", job("Complete", "abc")])]
    install.prepare_data(recorder, IMAGES, "lab")
    body = json.loads(next(stdin for _, stdin in recorder.asked if stdin))
    assert body["spec"]["template"]["spec"]["containers"][0]["image"] == "registry/tr:1"
    assert body["metadata"]["annotations"] == {"qwenft.dev/build": "abc"}
    assert "ttlSecondsAfterFinished" not in body["spec"]


def test_data_of_the_same_build_is_not_made_again(recorder: Recorder) -> None:
    recorder.answers = [("get job", [job("Complete", "abc")])]
    install.prepare_data(recorder, IMAGES, "lab")
    assert not any("delete" in line for line in recorder.lines())


@pytest.mark.parametrize(
    "before", [job("Complete", "older"), job("Failed", "abc"), job("Complete")]
)
def test_other_data_is_made_anew(recorder: Recorder, before: str) -> None:
    recorder.answers = [("get job", [before, job("Complete", "abc")])]
    install.prepare_data(recorder, IMAGES, "lab")
    assert any(line.startswith("delete job prepare-stdlib") for line in recorder.lines())


def test_a_failed_job_shows_its_log(recorder: Recorder) -> None:
    recorder.answers = [
        ("get job", ["", job("Failed", "abc")]),
        ("logs job/prepare-stdlib", ["no space left"]),
    ]
    with pytest.raises(StageError, match="no space left"):
        install.prepare_data(recorder, IMAGES, "lab")


# --- training


def test_an_earlier_run_is_removed_and_waited_out(recorder: Recorder) -> None:
    recorder.answers = [("get jobs,pods", ["job.batch/a-1\n", "pod/a-1-0\n", ""])]
    training.apply(recorder, {"metadata": {"name": "a"}}, "lab")
    lines = recorder.lines()
    assert lines[0].startswith("delete qft a -n lab")
    assert sum(line.startswith("get jobs,pods") for line in lines) == 3
    assert lines[-1].startswith("apply -n lab")


def test_a_failed_run_says_why_and_where_to_look(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwenft_cli.snapshot import Failure  # noqa: PLC0415

    failure = Failure(attempt=1, reason="DatasetInvalid", message="no file")
    last = Snapshot(name="a", phase="Failed", failure=failure)
    monkeypatch.setattr(training, "access", lambda *_: None)
    monkeypatch.setattr(training.watch, "until_finished", lambda *_: last)
    with pytest.raises(StageError, match="DatasetInvalid: no file") as caught:
        training.follow(recorder, "a", "lab")
    assert "qwenft logs a --failed -n lab" in caught.value.remedy


@pytest.fixture
def trained() -> Snapshot:
    return Snapshot(
        name="a",
        phase="Succeeded",
        plan="2×1 CPU · shard 2",
        reason="fastest of 30",
        predicted={"tokensPerSecond": 964.2},
        result={
            "validationLossBefore": 8.0, "validationLossAfter": 5.0, "tokensPerSecond": 976.0,
            "outputPath": "/data/a/model",
        },
    )  # fmt: skip


def test_the_summary_says_what_was_done_and_what_to_type(
    recorder: Recorder, trained: Snapshot
) -> None:
    text = training.summary(recorder, trained, "lab", "data")
    for expected in (
        "2×1 CPU · shard 2", "fastest of 30", "8.000 → 5.000 (-38 %)",
        "976 tokens/s (predicted 964)", "/data/a/model in the claim data", "/volume/a/model",
        "export KUBECONFIG=/kubeconfig", "kubectl describe qft a -n lab", "make cluster-down",
    ):  # fmt: skip
        assert expected in text


def test_the_summary_s_sentences_fit_a_terminal(recorder: Recorder, trained: Snapshot) -> None:
    long = replace(trained, reason="one of many words " * 12)
    text = training.summary(recorder, long, "lab", "data").split("what to type")[0]
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("one of many words") >= 6


def test_a_model_that_lies_elsewhere_has_no_folder_here(
    recorder: Recorder, trained: Snapshot
) -> None:
    recorder.folder = ""
    assert "on this machine" not in training.summary(recorder, trained, "lab", "data")


# --- the program


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StageError("helm broke", remedy="mend it"), 1, "failed: helm broke\nto do: mend it"),
        (CliError("no cluster", next_step="start one"), 1, "failed: no cluster\nto do: start one"),
        (KeyboardInterrupt(), 130, "`make demo` begins anew"),
    ],
)
def test_every_end_has_a_code_and_one_thing_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def fail(*_words: Any) -> None:
        raise error

    monkeypatch.setattr(program, "_demo", fail)
    assert program.main() == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_every_stage_is_announced_in_order(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    recorder: Recorder,
    trained: Snapshot,
) -> None:
    monkeypatch.setenv("QWENFT_CACHE", str(tmp_path))
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731 - five times the same
    monkeypatch.setattr(platforms, "choose", lambda: recorder)
    for name in ("helm_install", "make_namespace", "prepare_data"):
        monkeypatch.setattr(install, name, nothing)
    monkeypatch.setattr(training, "apply", nothing)
    monkeypatch.setattr(training, "follow", lambda *_: trained)
    assert program.main() == 0
    out = capsys.readouterr().out
    stages = [line.split("] ")[1].split(":")[0] for line in out.splitlines() if line[:1] == "["]
    assert stages == [
        "environment", "cluster", "images", "operator", "sample data", "fine-tune", "done",
    ]  # fmt: skip
    assert "what to type next" in out
