"""Error files that are not ours: a script's own @record, and files cut off or of another shape."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launching.processes import launcher
from qwenft_trainer.errorfile import device_memory, read_all
from qwenft_trainer.failure import Cause, first_cause, named_cause

pytestmark = pytest.mark.torch

MALFORMED = """\
import os

with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
    file.write('{"message": "the tokenizer is miss')
os._exit(3)
"""


def left(folder: Path, content: str, *, local: int = 0, **ranks: int) -> Cause:
    path = folder / "attempt_0" / str(local) / "error.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    (cause,) = read_all(folder, {int(key[1:]): value for key, value in ranks.items()})
    return cause


def of_torch(text: str, **extra: Any) -> str:
    info = {"py_callstack": "Traceback\nValueError", "timestamp": "1700000000"} | extra
    return json.dumps({"message": {"message": text, "extraInfo": info}})


def test_a_scripts_own_record_is_understood(tmp_path: Path) -> None:
    cause = left(tmp_path, of_torch("ValueError: no such column"), local=1, r1=9)
    assert (cause.exit_code, cause.reason) == (70, "WorkerError")
    assert (cause.message, cause.rank) == ("ValueError: no such column", 9)
    assert (cause.time, cause.trace) == (1.7e9, "Traceback\nValueError")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory", 68),
        ("MemoryError: ", 68),
        ("DistBackendError: NCCL error", 69),
        ("RuntimeError: [/gloo/transport/tcp/pair.cc] Connection closed by peer", 69),
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied", 70),
        ("boom", 70),
    ],
)
def test_a_class_known_by_its_name_alone_gives_its_code(text: str, code: int) -> None:
    assert named_cause(text, rank=0).exit_code == code


def test_torchs_oldest_shape_is_understood(tmp_path: Path) -> None:
    cause = left(tmp_path, json.dumps({"message": "KeyError: text", "timestamp": 3}))
    assert (cause.exit_code, cause.message, cause.rank) == (70, "KeyError: text", 0)


@pytest.mark.parametrize("content", ['{"message": "cut o', "[]", "{}", "\x00\x01", "3", ""])
def test_a_file_that_cannot_be_read_is_told_as_such(tmp_path: Path, content: str) -> None:
    cause = left(tmp_path, content, local=2)
    assert (cause.exit_code, cause.rank) == (70, 2)
    assert cause.message.startswith("rank 2 left an error file that cannot be read; it begins: ")
    assert content.strip()[:10] in cause.message
    assert cause.time == float("inf")


def test_a_typed_cause_of_another_rank_comes_before_a_lost_connection(tmp_path: Path) -> None:
    lost = left(tmp_path / "a", of_torch("DistBackendError: reset", timestamp="1"))
    named = left(tmp_path / "b", of_torch("ValueError: bad", timestamp="2"), local=1)
    assert first_cause((lost, named)).message == "ValueError: bad"


def test_a_malformed_file_does_not_become_the_launchers_own_error(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(MALFORMED)
    with launcher(tmp_path, str(script)) as started:
        code, message = started.end()
    assert (code, message["reason"], message["rank"]) == (70, "WorkerError", 0)
    assert message["message"].endswith('it begins: {"message": "the tokenizer is miss')


def cuda(**calls: Any) -> Any:
    """Stand in for torch.cuda of a device with 80 GiB."""
    gib = 1024**3
    known = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "mem_get_info": lambda: (gib // 2, 80 * gib),
        "memory_allocated": lambda: 70 * gib,
        "max_memory_allocated": lambda: 75 * gib,
        "memory_reserved": lambda: 79 * gib,
        "memory_summary": lambda *, abbreviated: f"| table, short: {abbreviated} |",
    }
    return SimpleNamespace(**known | calls)


def test_running_out_of_device_memory_is_told_with_its_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert device_memory(cuda()) == (
        " (tensors 70.00 GiB, tensors at the peak 75.00 GiB, reserved 79.00 GiB, "
        "free on the device 0.50 GiB, of 80.00 GiB)"
    )
    assert capsys.readouterr().err == "| table, short: True |\n"


@pytest.mark.parametrize("absent", ["is_available", "is_initialized"])
def test_without_a_device_in_use_there_is_nothing_to_tell(absent: str) -> None:
    assert device_memory(cuda(**{absent: lambda: False})) == ""


def test_a_device_that_answers_no_more_hides_no_error() -> None:
    def broken() -> tuple[int, int]:
        raise RuntimeError("device-side assert")

    told = device_memory(cuda(mem_get_info=broken))
    assert told == " (its memory cannot be read: device-side assert)"
