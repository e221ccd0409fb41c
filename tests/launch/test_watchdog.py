"""A rank that stands still is noticed from within, and says where it stands."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from qwenft_trainer import watchdog
from qwenft_trainer.errorfile import TypedErrorHandler, read_all, read_words
from qwenft_trainer.failure import CommunicationFailure
from qwenft_trainer.watchdog import FILES, FIRST, Watchdog, main_stack, stacks, waits_for_others

pytestmark = pytest.mark.torch

Noticed = queue.SimpleQueue[tuple[CommunicationFailure, str]]


def watching(noticed: Noticed, *, usual: float | None = 0.001, least: float = 0.2) -> Watchdog:
    return Watchdog(lambda: usual, least=least, end=lambda *told: noticed.put(told))


def stand_still_reading_a_dataset(noticed: Noticed) -> tuple[CommunicationFailure, str]:
    return noticed.get(timeout=60)


def test_a_silence_ends_the_rank_with_what_it_did_and_where() -> None:
    noticed: Noticed = queue.SimpleQueue()
    with watching(noticed) as dog:
        dog.beat("training step 7")
        error, text = stand_still_reading_a_dataset(noticed)
    assert (error.exit_code, error.reason) == (69, "Hung")
    assert "while training step 7 (limit 0 s)" in str(error)
    assert "in stand_still_reading_a_dataset" in text
    assert "in stand_still_reading_a_dataset" in main_stack(text)
    assert "in _watch" not in main_stack(text)


def test_signs_of_life_keep_a_rank_alive() -> None:
    noticed: Noticed = queue.SimpleQueue()
    with watching(noticed, least=0.5) as dog:
        for _ in range(40):
            dog.beat("training")
            time.sleep(0.02)
    assert noticed.empty()


def test_nothing_is_noticed_after_the_end() -> None:
    noticed: Noticed = queue.SimpleQueue()
    with watching(noticed, least=0.1):
        pass
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())
    assert noticed.empty()


@pytest.mark.parametrize(
    ("usual", "limit"),
    [(1.0, 600.0), (133.0, 600.0), (200.0, 900.0), (None, FIRST * 600.0)],
)
def test_the_limit_follows_the_steps_and_has_a_floor(usual: float | None, limit: float) -> None:
    dog = Watchdog(lambda: usual, least=600.0)
    assert dog.limit == pytest.approx(limit)


def test_what_writes_files_is_given_more_time() -> None:
    dog = Watchdog(lambda: 1.0, least=600.0)
    dog.beat("saving", patience=FILES)
    assert dog.limit == pytest.approx(FILES * 600.0)
    dog.beat("training step 3")
    assert dog.limit == pytest.approx(600.0)


def test_the_environment_sets_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWENFT_STALL_SECONDS", "45")
    assert Watchdog(lambda: 1.0).limit == pytest.approx(45.0)
    monkeypatch.delenv("QWENFT_STALL_SECONDS")
    assert Watchdog(lambda: 1.0).limit == pytest.approx(600.0)


def test_a_rank_that_waits_inside_torch_gives_others_the_first_word() -> None:
    frames = []

    def inside(name: str) -> None:
        code = compile("import sys\nframes.append(sys._getframe())", name, "exec")
        exec(code, {"frames": frames})  # noqa: S102 - a frame of a file of that name

    for name in (*watchdog._WAITING, "/data/train.py", "/usr/lib/python3/threading.py"):
        inside(name if name.endswith(".py") else f"{name}/distributed/distributed_c10d.py")
    assert [waits_for_others(frame) for frame in frames] == [True, True, False, False]
    assert not waits_for_others(sys._getframe())
    assert not waits_for_others(None)


@pytest.mark.parametrize(
    ("world", "inside", "reason", "seconds"),
    [
        ("2", True, "CommunicationFailure", 0.22),
        ("2", False, "Hung", 0.2),
        ("1", True, "Hung", 0.2),
    ],
)
def test_only_who_keeps_the_others_waiting_is_said_to_hang(
    monkeypatch: pytest.MonkeyPatch,
    world: str,
    inside: bool,  # noqa: FBT001 - a parameter of the test
    reason: str,
    seconds: float,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setattr(watchdog, "waits_for_others", lambda _: inside)
    noticed: Noticed = queue.SimpleQueue()
    began = time.monotonic()
    with watching(noticed) as dog:
        dog.beat("training step 7")
        error, _ = noticed.get(timeout=60)
    assert time.monotonic() - began >= seconds
    assert error.reason == reason
    assert ("it waits inside torch" in str(error)) is (reason != "Hung")


@pytest.fixture
def word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a rank with impatient peers leaves word of its standing still."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(watchdog, "STEP", timedelta(seconds=0.2))
    return tmp_path / "silence.json"


def awaited(path: Path, *, there: bool) -> bool:
    deadline = time.monotonic() + 30
    while path.exists() is not there and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.exists() is there


def test_word_is_left_before_the_peers_have_waited_in_vain_and_taken_back(word: Path) -> None:
    noticed: Noticed = queue.SimpleQueue()
    with watching(noticed, least=2) as dog:
        dog.beat("training step 7")
        assert awaited(word, there=True)
        (cause,) = read_words(word.parent)
        assert (cause.exit_code, cause.reason, cause.rank) == (69, "Hung", 1)
        assert "while training step 7 (limit 2 s)" in cause.message
        assert "in test_word_is_left" in cause.trace
        dog.beat("training step 8")
        assert not word.exists()
        assert list(read_words(word.parent)) == []
    assert noticed.empty()


def test_who_waits_in_a_collective_has_no_word_to_leave(
    word: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def inside(_: object) -> bool:
        asked.set()
        return True

    monkeypatch.setattr(watchdog, "waits_for_others", inside)
    noticed: Noticed = queue.SimpleQueue()
    with watching(noticed, least=1) as dog:
        dog.beat("training step 7")
        assert asked.wait(30)
        error, _ = noticed.get(timeout=60)
    assert error.reason == "CommunicationFailure"
    assert not word.exists()


def test_a_word_is_not_told_of_a_rank_that_has_said_more(word: Path) -> None:
    handler = TypedErrorHandler()
    assert handler.leave_word(CommunicationFailure("no sign of life"), "stack") == word
    handler.record_exception(CommunicationFailure("closed by peer"))
    assert list(read_words(word.parent)) == []
    assert [cause.message for cause in read_all(word.parent)] == ["closed by peer"]


def test_without_an_error_file_no_word_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert TypedErrorHandler().leave_word(CommunicationFailure("x"), "stack") is None


def test_a_rank_ends_itself_before_the_operator_would_give_the_attempt_up() -> None:
    """The operator waits for five steps, or for thrice what it tells the ranks to wait."""
    assert watchdog.STEPS * (1 + watchdog.COURTESY) < 5
    assert FIRST * (1 + watchdog.COURTESY) < 4


def test_all_threads_are_shown() -> None:
    gate = threading.Event()

    def wait_for_a_file() -> None:
        gate.wait()

    thread = threading.Thread(target=wait_for_a_file)
    thread.start()
    text = stacks()
    gate.set()
    thread.join()
    assert "in wait_for_a_file" in text
    assert "in test_all_threads_are_shown" in main_stack(text)


def test_the_launcher_finds_the_stack_in_the_error_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "1" / "error.json"
    path.parent.mkdir()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    monkeypatch.setenv("RANK", "5")
    stack = 'Thread 0x1 (most recent call first):\n  File "a.py", line 3 in inner\n  File "b.py"'
    TypedErrorHandler().record_stall(CommunicationFailure("no sign of life"), stack)
    (cause,) = read_all(tmp_path)
    assert (cause.exit_code, cause.rank, cause.message) == (69, 5, "no sign of life")
    assert cause.trace.splitlines()[-2:] == [
        '  File "a.py", line 3 in inner',
        "Thread 0x1 (most recent call first):",
    ]
    assert json.loads(cause.to_message())["trace"].count("inner") == 1
