"""``qwenft prepare`` as typed: files in, one dataset file out, or one sentence and a typed code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from launching.tokenizer import saved, tokenizer
from qwenft_trainer import prepare
from qwenft_trainer.data import load

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", name="model")
def write_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


def write_records(path: Path, count: int) -> Path:
    rows = [{"prompt": f"number {n}", "response": "word " * (n + 1)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(folder: Path, model: Path | str, *flags: str, records: int = 10) -> int:
    source = write_records(folder / "records.jsonl", records)
    output = folder / "deep" / "set.pt"
    return prepare.main(
        ["--input", str(source), "--tokenizer", str(model), "--output", str(output), *flags]
    )


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_a_file_of_records_becomes_a_dataset_that_the_trainer_reads(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, model, "--length", "24") == 0
    splits = load(tmp_path / "deep" / "set.pt", vocab_size=len(tokenizer()))
    assert len(splits.train) == 10
    assert splits.validation is None
    tokens, _ = splits.train.rows([0])
    assert tokenizer().decode(tokens[0]) == "number 0\nword <|endoftext|>"
    assert f"{tmp_path}/deep/set.pt: train: 10 records, " in capsys.readouterr().out


def test_the_line_printed_says_how_many_records_were_cut(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, model, "--length", "2") == 0
    assert "10 records, 20 tokens" in capsys.readouterr().out


def test_a_script_gets_the_counts_as_one_json_document(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--length", "2", "--validation-fraction", "0.2", "--mask-prompt", "--json"]
    assert run(tmp_path, model, *flags) == 0
    assert json.loads(capsys.readouterr().out) == {
        "output": f"{tmp_path}/deep/set.pt",
        "splits": {
            "train": {"records": 8, "tokens": 16},
            "validation": {"records": 2, "tokens": 4},
        },
        "trainedPredictions": 0,
        "cutRecords": 10,
        "idleRecords": 10,
    }


def test_counts_as_json_are_refused_where_a_sample_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["--stdlib-sample", str(tmp_path / "sample"), "--json"]) == 65
    assert "--json tells of records; it goes with --input" in said(capsys)
    assert not (tmp_path / "sample").exists()


@pytest.mark.parametrize(
    ("fraction", "train", "validation"), [("0.2", 8, 2), ("0.01", 9, 1), ("0.5", 5, 5)]
)
def test_a_fraction_holds_out_the_last_records(
    tmp_path: Path, model: Path, fraction: str, train: int, validation: int
) -> None:
    assert run(tmp_path, model, "--validation-fraction", fraction) == 0
    splits = load(tmp_path / "deep" / "set.pt")
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation)) == (train, validation)
    last = splits.validation.rows([validation - 1])[0][0]
    assert tokenizer().decode(last).startswith("number 9\n")


def test_a_file_of_held_out_records_wins_over_a_fraction(tmp_path: Path, model: Path) -> None:
    held_out = write_records(tmp_path / "held.jsonl", 3)
    flags = ("--validation", str(held_out), "--validation-fraction", "0.5")
    assert run(tmp_path, model, *flags) == 0
    splits = load(tmp_path / "deep" / "set.pt")
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation)) == (10, 3)


def test_responses_only_are_trained_where_prompts_are_masked(tmp_path: Path, model: Path) -> None:
    assert run(tmp_path, model) == 0
    whole = load(tmp_path / "deep" / "set.pt").train
    assert run(tmp_path, model, "--mask-prompt") == 0
    masked = load(tmp_path / "deep" / "set.pt").train
    assert torch.equal(whole.tokens, masked.tokens)
    assert (masked.trained_tokens() < whole.trained_tokens()).all()
    assert (masked.trained_tokens() > 0).all()


def test_a_second_run_replaces_the_file_and_leaves_nothing_beside_it(
    tmp_path: Path, model: Path
) -> None:
    assert run(tmp_path, model, records=4) == 0
    assert run(tmp_path, model, records=6) == 0
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set.pt"]
    assert len(load(tmp_path / "deep" / "set.pt").train) == 6


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--tokenizer", ""], 65, "--tokenizer is missing"),
        (["--validation-fraction", "1"], 65, "--validation-fraction must be at least 0 and below"),
        (["--validation-fraction", "-0.1"], 65, "--validation-fraction must be at least 0"),
        (["--validation-fraction", "nan"], 65, "--validation-fraction must be at least 0"),
        (["--length", "0"], 65, "--length must be at least 2, not 0"),
        (["--length", "-5"], 65, "--length must be at least 2, not -5"),
        (["--length", "1"], 65, "--length must be at least 2, not 1"),
        (["--workers", "0"], 65, "--workers must be at least 1"),
        (["--output", "set.csv"], 65, "--output must be named *.pt or *.safetensors"),
        (["--input", "gone*.jsonl"], 65, "gone*.jsonl: cannot be read"),
        (["--input", "gone.jsonl"], 65, "gone.jsonl: cannot be read"),
        (["--validation", "gone.jsonl"], 65, "gone.jsonl: cannot be read"),
        (["--tokenizer", "/nowhere/at/all"], 66, "/nowhere/at/all: no tokenizer can be loaded"),
        (["--output", "/dev/null/set.pt"], 70, "/dev/null/set.pt: cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_option_ends_in_one_sentence_and_a_typed_code(
    tmp_path: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: int,
    sentence: str,
) -> None:
    assert run(tmp_path, model, *flags) == code
    error = said(capsys)
    assert error.startswith("qwenft prepare: ")
    assert sentence in error
    assert not (tmp_path / "deep" / "set.pt").exists()


def test_an_empty_file_has_nothing_to_train_on(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, model, records=0) == 65
    assert "records.jsonl: no record is left to train on" in said(capsys)


def test_an_empty_file_of_held_out_records_is_refused(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = write_records(tmp_path / "held.jsonl", 0)
    assert run(tmp_path, model, "--validation", str(held_out)) == 65
    assert f"{held_out}: no record is there to validate on" in said(capsys)


def test_a_fraction_that_leaves_nothing_to_train_on_is_refused(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, model, "--validation-fraction", "0.9", records=1) == 65
    assert "no record is left to train on" in said(capsys)


@pytest.mark.parametrize("content", ["{", '{"version": "1.0"}', "\x00"])
def test_a_damaged_tokenizer_is_refused_by_name(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    damaged = tmp_path / "model"
    damaged.mkdir()
    for path in model.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / "tokenizer.json").write_text(content)
    assert run(tmp_path, damaged) == 66
    assert f"{damaged}: no tokenizer can be loaded" in said(capsys)


@pytest.mark.parametrize("flags", [[], ["--input", "a", "--stdlib-sample", "b"], ["--what"]])
def test_a_command_line_that_says_nothing_or_two_things_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        prepare.main(flags)
    assert caught.value.code == 2
    assert "usage: qwenft prepare" in said(capsys)
