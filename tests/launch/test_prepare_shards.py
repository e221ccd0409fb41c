"""Any input → the same bytes, whatever the number of processes and of kills on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from launching.tokenizer import saved, tokenizer
from qwenft_trainer import inputs, prepare, shards
from qwenft_trainer.data import Splits, load

pytestmark = pytest.mark.torch

COUNT = 60


@pytest.fixture(scope="module", name="model")
def write_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "BLOCK_BYTES", 700)
    monkeypatch.setattr(inputs, "BLOCK_ROWS", 17)
    monkeypatch.setattr(inputs, "READ_BYTES", 100)
    monkeypatch.setattr(shards, "BATCH", 8)


def records(count: int = COUNT) -> list[dict[str, str]]:
    return [{"prompt": f"number {n}", "response": "word " * (n % 9 + 1)} for n in range(count)]


def jsonl(path: Path, rows: Iterable[Any], end: str = "\n") -> Path:
    path.write_text("".join(json.dumps(row) + end for row in rows), encoding="utf-8")
    return path


def run(model: Path, output: Path, *flags: str | Path) -> int:
    return prepare.main(
        ["--tokenizer", str(model), "--output", str(output), "--mask-prompt", *map(str, flags)]
    )


def texts(splits: Splits) -> list[str]:
    tokens, _ = splits.train.rows(range(len(splits.train)))
    return [tokenizer().decode(row) for row in tokens]


def expected(count: int = COUNT) -> list[str]:
    return [f"{row['prompt']}\n{row['response']}<|endoftext|>" for row in records(count)]


def write_array(folder: Path) -> Path:
    path = folder / "records.json"
    path.write_text(json.dumps(records(), indent=1), encoding="utf-8")
    return path


def write_parquet(folder: Path) -> Path:
    table = pa.Table.from_pylist(records())
    pq.write_table(table, folder / "records.parquet", row_group_size=23)
    return folder / "records.parquet"


def write_saved(folder: Path) -> Path:
    import datasets  # noqa: PLC0415 - takes seconds

    splits = {"train": records(), "test": records(5)}
    made = datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
    )
    made.save_to_disk(folder / "saved")
    return folder / "saved"


def write_lines(folder: Path) -> Path:
    return jsonl(folder / "records.jsonl", records(), end="\r\n\n")


@pytest.mark.parametrize("write", [write_lines, write_array, write_parquet, write_saved])
def test_every_kind_of_file_gives_every_record_once_and_in_order(
    write: Any, tmp_path: Path, model: Path
) -> None:
    source = write(tmp_path)
    assert run(model, tmp_path / "set.safetensors", "--input", source) == 0
    splits = load(tmp_path / "set.safetensors", vocab_size=len(tokenizer()))
    assert texts(splits) == expected()
    assert (splits.train.trained_tokens() < splits.train.lengths() - 1).all()


def test_a_saved_dictionary_gives_its_own_splits(tmp_path: Path, model: Path) -> None:
    source = write_saved(tmp_path)
    output = tmp_path / "set.safetensors"
    assert run(model, output, "--input", source, "--validation", source) == 0
    splits = load(output)
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation)) == (COUNT, 5)


def test_several_files_globs_and_directories_are_read_in_order(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    jsonl(folder / "b.jsonl", records()[20:])
    jsonl(folder / "a.jsonl", records()[:20])
    for source in (folder, folder / "*.jsonl"):
        assert run(model, tmp_path / "set.safetensors", "--input", source) == 0
        assert texts(load(tmp_path / "set.safetensors")) == expected()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, model: Path, suffix: str
) -> None:
    source = jsonl(tmp_path / "records.jsonl", records())
    made = []
    for workers in ("1", "3"):
        output = tmp_path / f"set{suffix}"
        assert run(model, output, "--input", source, "--workers", workers) == 0
        made.append(output.read_bytes())
    assert made[0] == made[1]
    assert not (tmp_path / f"set{suffix}.work").exists()


def test_a_fraction_is_held_out_of_a_flat_file_too(tmp_path: Path, model: Path) -> None:
    source = jsonl(tmp_path / "records.jsonl", records())
    output = tmp_path / "set.safetensors"
    assert run(model, output, "--input", source, "--validation-fraction", "0.25") == 0
    splits = load(output)
    assert splits.validation is not None
    last, _ = splits.validation.rows([14])
    assert (len(splits.train), len(splits.validation)) == (45, 15)
    assert tokenizer().decode(last[0]) == expected()[-1]


def test_an_old_file_is_converted_without_a_tokenizer(tmp_path: Path, model: Path) -> None:
    source = jsonl(tmp_path / "records.jsonl", records())
    assert run(model, tmp_path / "old.pt", "--input", source, "--length", "32") == 0
    arguments = ["--input", str(tmp_path / "old.pt"), "--output", str(tmp_path / "new.safetensors")]
    assert prepare.main(arguments) == 0
    old, new = load(tmp_path / "old.pt").train, load(tmp_path / "new.safetensors").train
    assert torch.equal(old.tokens, new.tokens)
    assert torch.equal(old.trained, new.trained)
    assert torch.equal(old.offsets, new.offsets)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_first_bad_record_is_named_by_file_and_line(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    rows: list[Any] = records()
    rows[37], rows[50] = {"prompt": 1, "response": "x"}, {"instruction": "x"}
    source = jsonl(tmp_path / "records.jsonl", rows)
    output = tmp_path / "set.safetensors"
    assert run(model, output, "--input", source, "--workers", workers) == 65
    assert f"{source}:38: prompt is no string" in capsys.readouterr().err
    assert not output.exists()


def test_a_bad_row_of_a_parquet_file_is_named_by_its_number(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*records(), {"prompt": "x", "response": None}]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "records.parquet", row_group_size=23)
    source = tmp_path / "records.parquet"
    assert run(model, tmp_path / "set.pt", "--input", source) == 65
    assert f"{source}: row {COUNT}: response is no string" in capsys.readouterr().err


def test_a_mended_file_is_gone_through_anew(tmp_path: Path, model: Path) -> None:
    source = jsonl(tmp_path / "records.jsonl", [*records(30), {"prompt": 1}])
    output = tmp_path / "set.safetensors"
    assert run(model, output, "--input", source) == 65
    jsonl(source, records())
    assert run(model, output, "--input", source) == 0
    assert texts(load(output)) == expected()


def test_finished_shards_are_not_made_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = jsonl(tmp_path / "records.jsonl", records())
    output = tmp_path / "set.safetensors"
    assert run(model, output, "--input", source) == 0
    whole = output.read_bytes()
    made: list[int] = []
    original = shards.make_shard

    def counted(work: shards.Work, number: int, loaded: Any) -> shards.Shard:
        if len(made) == 2 and "stop" in os.environ.get("QWENFT_TEST", ""):
            raise KeyboardInterrupt
        made.append(number)
        return original(work, number, loaded)

    monkeypatch.setattr(shards, "make_shard", counted)
    monkeypatch.setenv("QWENFT_TEST", "stop")
    with pytest.raises(KeyboardInterrupt):
        run(model, output, "--input", source)
    monkeypatch.setenv("QWENFT_TEST", "")
    capsys.readouterr()
    assert run(model, output, "--input", source, "--json") == 0
    told = capsys.readouterr()
    assert "going on: 2 of" in told.err
    assert json.loads(told.out)["splits"]["train"]["records"] == len(list(records()))
    assert made == sorted(set(made))
    assert output.read_bytes() == whole


def start(model: Path, source: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    arguments = ["--input", str(source), "--tokenizer", str(model), "--output", str(output)]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(str(root / part) for part in ("operator/src", "trainer_image/src"))
    return subprocess.Popen(
        [sys.executable, "-m", "qwenft_cli", "prepare", *arguments, *flags],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.full
def test_a_kill_in_the_middle_costs_only_what_was_not_finished(tmp_path: Path, model: Path) -> None:
    rows = ({"prompt": f"number {n}", "response": "word " * 90} for n in range(60_000))
    source = jsonl(tmp_path / "records.jsonl", rows)
    output = tmp_path / "set.safetensors"
    process = start(model, source, output, "--workers", "2")
    work = tmp_path / "set.safetensors.work"
    deadline = time.monotonic() + 300
    while len(list(work.glob("0*.json"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    said, _ = start(model, source, output).communicate()
    assert re.search(r"going on: [1-9]\d* of \d+ parts were done", said)
    first = output.read_bytes()
    output.unlink()
    start(model, source, output).communicate()
    assert output.read_bytes() == first


PEAK = """
import os, resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""A small process in between: what a parent held when it forked counts as its child's."""


def peak(model: Path, source: Path, output: Path) -> float:
    """Return the most that the command held in memory, in MiB."""
    arguments = ["--input", str(source), "--tokenizer", str(model), "--output", str(output)]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(str(root / part) for part in ("operator/src", "trainer_image/src"))
    command = [sys.executable, "-m", "qwenft_cli", "prepare", *arguments]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *command],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout) / 1024


@pytest.mark.full
def test_memory_does_not_grow_with_the_number_of_records(tmp_path: Path, model: Path) -> None:
    peaks = {}
    for count in (5_000, 200_000):
        rows = ({"prompt": f"number {n}", "response": "word " * 40} for n in range(count))
        source = jsonl(tmp_path / f"{count}.jsonl", rows)
        peaks[count] = peak(model, source, tmp_path / f"{count}.safetensors")
    print(f"peak resident MiB: {peaks}")
    assert peaks[200_000] - peaks[5_000] < 64
    assert len(load(tmp_path / "200000.safetensors").train) == 200_000
