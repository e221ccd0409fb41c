from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from qwenft_cli.document import load
from qwenft_cli.failure import BAD_INPUT, CliError


def written(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(path: str) -> CliError:
    with pytest.raises(CliError) as caught:
        load(path)
    assert caught.value.exit_code == BAD_INPUT
    assert caught.value.next_step
    return caught.value


def test_a_file_gives_name_and_spec(tiny: Path) -> None:
    read = load(str(tiny))
    assert (read.name, read.namespace) == ("tiny", "")
    assert read.spec.training.batch_size == 8
    assert read.body["kind"] == "QwenFineTune"


def test_the_namespace_of_the_file_is_kept(tmp_path: Path, tiny: Path) -> None:
    text = tiny.read_text().replace("{name: tiny}", "{name: tiny, namespace: team}")
    assert load(written(tmp_path, text)).namespace == "team"


def test_json_is_yaml_too(tmp_path: Path, tiny: Path) -> None:
    body = load(str(tiny)).body
    assert load(written(tmp_path, json.dumps(body))).name == "tiny"


@pytest.mark.parametrize(
    ("number", "rate"), [("1e-4", 1e-4), ("2E-5", 2e-5), ("1.5e-5", 1.5e-5), ("0.001", 1e-3)]
)
def test_a_learning_rate_is_a_number_as_kubectl_reads_it(
    tmp_path: Path, tiny: Path, number: str, rate: float
) -> None:
    text = tiny.read_text().replace("batchSize: 8", f"batchSize: 8, learningRate: {number}")
    assert load(written(tmp_path, text)).spec.training.learning_rate == rate


def test_what_only_begins_like_a_number_is_text(tmp_path: Path, tiny: Path) -> None:
    text = tiny.read_text().replace("{name: tiny}", "{name: 1e-4x}")
    assert load(written(tmp_path, text)).name == "1e-4x"


def test_other_documents_in_the_file_are_passed_over(tmp_path: Path, tiny: Path) -> None:
    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: script}\n---\n"
    assert load(written(tmp_path, other + tiny.read_text())).name == "tiny"


def test_standard_input_is_a_file_too(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(tiny.read_text()))
    assert load("-").name == "tiny"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = refused(str(tmp_path / "gone.yaml"))
    assert "gone.yaml: No such file or directory" in error.message


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "Is a directory" in refused(str(tmp_path)).message


def test_binary_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused(str(path)).message


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    assert "run.yaml:2: is not YAML" in refused(written(tmp_path, "a: 1\nb: c: d\n")).message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "holds no object"),
        ("- 1\n- 2\n", "holds no object"),
        ("just words\n", "holds no object"),
        ("kind: Pod\n", "must hold exactly one QwenFineTune, but holds Pod"),
        ("kind: QwenFineTune\n---\nkind: QwenFineTune\n", "but holds 2 of them"),
        ("kind: QwenFineTune\n", "apiVersion is None"),
        ("kind: QwenFineTune\napiVersion: qwenft.dev/v2\n", "'qwenft.dev/v2', expected"),
        ("kind: QwenFineTune\napiVersion: qwenft.dev/v1alpha1\n", "metadata.name is missing"),
        (
            "kind: QwenFineTune\napiVersion: qwenft.dev/v1alpha1\nmetadata: {name: 7}\n",
            "metadata.name is missing",
        ),
        (
            "kind: QwenFineTune\napiVersion: qwenft.dev/v1alpha1\nmetadata: {name: a}\n",
            "spec is missing",
        ),
        (
            "kind: QwenFineTune\napiVersion: qwenft.dev/v1alpha1\nmetadata: {name: a}\nspec: 3\n",
            "spec is missing",
        ),
    ],
)
def test_a_file_that_is_no_run_says_what_it_lacks(tmp_path: Path, text: str, found: str) -> None:
    assert found in refused(written(tmp_path, text)).message


def test_a_wrong_field_is_named_with_its_path(tmp_path: Path, tiny: Path) -> None:
    text = tiny.read_text().replace("batchSize: 8", "batchSize: none")
    message = refused(written(tmp_path, text)).message
    assert "run.yaml: spec.training.batchSize: must be an integer" in message


def test_an_unknown_field_is_refused(tmp_path: Path, tiny: Path) -> None:
    text = tiny.read_text().replace("maxSteps: 10", "maxStep: 10")
    assert "spec.training.maxStep" in refused(written(tmp_path, text)).message
