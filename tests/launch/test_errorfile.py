"""The file that a failing rank leaves, in torch's shape with the typed cause beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure, record

from qwenft_trainer import errorfile
from qwenft_trainer.errorfile import TypedErrorHandler, read_all
from qwenft_trainer.failure import Cause, DatasetInvalid, NumericError, first_cause

pytestmark = pytest.mark.torch


@pytest.fixture(name="path")
def name_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Do as torch's agent does: name a file for rank 3."""
    path = tmp_path / "attempt_0" / "3" / "error.json"
    path.parent.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    monkeypatch.setenv("RANK", "3")
    return path


def raise_it(error: Exception) -> Callable[[], None]:
    def main() -> None:
        raise error

    return record(main, error_handler=TypedErrorHandler())


def failing(error: Exception) -> None:
    with pytest.raises(type(error)):
        raise_it(error)()


def test_an_errors_cause_is_written_and_read_back_whole(path: Path, tmp_path: Path) -> None:
    failing(NumericError("loss is nan", step=12))
    (cause,) = read_all(tmp_path)
    assert (cause.exit_code, cause.reason) == (67, "NumericError")
    assert (cause.message, cause.rank, cause.step) == ("loss is nan", 3, 12)
    assert cause.trace.endswith("NumericError: loss is nan\n")
    assert abs(cause.time - path.stat().st_mtime) < 5


def test_torchs_agent_understands_the_file(path: Path) -> None:
    failing(ValueError("boom"))
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(path))
    assert failure.message["message"] == "ValueError: boom"
    assert abs(failure.timestamp - path.stat().st_mtime) < 5


def test_the_trace_is_the_end_of_the_traceback_and_bounded(path: Path, tmp_path: Path) -> None:
    failing(ValueError("x" * 10_000 + "END"))
    assert path.is_file()
    (cause,) = read_all(tmp_path)
    assert cause.trace.endswith("END\n")
    assert len(cause.trace) == errorfile.TRACE_BYTES


def test_the_file_appears_whole_or_not_at_all(path: Path) -> None:
    failing(DatasetInvalid("record 3"))
    assert [entry.name for entry in path.parent.iterdir()] == ["error.json"]


def test_without_an_agent_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    failing(ValueError("boom"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rank", "expected"), [("0", 0), ("17", 17), (None, None)])
def test_a_cause_knows_its_rank_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, expected: int | None
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert errorfile.describe(ValueError("x")).rank == expected


def write(folder: Path, rank: int, content: Any) -> None:
    path = folder / "run_x" / "attempt_0" / str(rank) / "error.json"
    path.parent.mkdir(parents=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


def test_every_ranks_file_of_a_node_is_read(tmp_path: Path) -> None:
    causes = [
        Cause(exit_code=69, reason="CommunicationFailure", message=f"m{rank}", rank=rank, time=1.0)
        for rank in range(4)
    ]
    for cause in causes:
        assert cause.rank is not None
        write(tmp_path, cause.rank, {"qwenft": asdict(cause)})
    assert list(read_all(tmp_path)) == causes


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        {"qwenft": None},
        {"qwenft": {"exit_code": 70}},
        {"qwenft": {"exit_code": 70, "reason": "x", "message": "y", "flavour": 1}},
    ],
    ids=str,
)
def test_a_file_of_another_kind_gives_way_to_a_typed_cause(tmp_path: Path, content: Any) -> None:
    good = Cause(exit_code=65, reason="DatasetInvalid", message="m", rank=1, time=5.0)
    write(tmp_path, 0, content)
    write(tmp_path, 1, {"qwenft": asdict(good)})
    found = list(read_all(tmp_path))
    assert good in found
    assert first_cause(found) == good
    assert "cannot be read" in next(c.message for c in found if c != good)


def test_a_node_without_files_has_no_causes(tmp_path: Path) -> None:
    assert list(read_all(tmp_path)) == []
    assert list(read_all(tmp_path / "gone")) == []
