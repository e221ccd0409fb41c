"""One node's launcher with ranks that are shell scripts: each way to end has its typed exit."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.agent.server.api import WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

from launching.plans import make_plan, write_plan
from qwenft_trainer import launch, oomwatch

pytestmark = pytest.mark.torch

ERROR_FILE = """
cat > "$TORCHELASTIC_ERROR_FILE" <<'END'
{{"message": {{"message": "x", "extraInfo": {{"py_callstack": "", "timestamp": "{time:.0f}"}}}},
 "qwenft": {{"exit_code": {code}, "reason": "{reason}", "message": "{message}", "rank": {rank},
            "step": 3, "time": {time}, "trace": "last line"}}}}
END
exit {code}
"""
SLOW = "sleep 30"
"""A rank that would go on; the launcher ends it when another one fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a launcher ended: its code, and what the kubelet would read."""

    code: int
    message: dict[str, Any]


Node = Callable[..., Ended]


def error_file(code: int, reason: str, message: str, *, rank: int, time: float) -> str:
    """Return the commands of a rank that fails as the trainer's own ranks do."""
    return ERROR_FILE.format(code=code, reason=reason, message=message, rank=rank, time=time)


@pytest.fixture(name="node")
def make_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Return a function that runs one command a rank and tells how the node ended."""
    log = tmp_path / "termination-log"
    monkeypatch.setenv("QWENFT_TERMINATION_LOG", str(log))
    monkeypatch.setenv("QWENFT_RESULT_FILE", "set anew by the launcher")
    for name in [name for name in os.environ if name.startswith(("PET_", "QWENFT_PLAN"))]:
        monkeypatch.delenv(name)

    def run(*commands: str, flags: tuple[str, ...] = ()) -> Ended:
        for rank, command in enumerate(commands):
            (tmp_path / f"rank-{rank}.sh").write_text(command)
        script = f'exec bash "{tmp_path}/rank-$LOCAL_RANK.sh" "$@"'
        started = [f"--nproc-per-node={len(commands)}", "--no-python", *flags]
        code = launch.main([*started, "bash", "-c", script, "rank"])
        return Ended(code=code, message=json.loads(log.read_text()))

    return run


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (1, 70, "WorkerError"),
        (64, 64, "Preempted"),
        (65, 65, "DatasetInvalid"),
        (66, 66, "PlanInvalid"),
        (67, 67, "NumericError"),
        (68, 68, "OutOfMemory"),
        (69, 69, "CommunicationFailure"),
        (70, 70, "WorkerError"),
        (99, 70, "WorkerError"),
    ],
)
def test_a_ranks_exit_status_becomes_the_nodes(
    node: Node, status: int, code: int, reason: str
) -> None:
    ended = node(f"exit {status}")
    assert ended.code == code
    assert ended.message["exitCode"] == code
    assert ended.message["reason"] == reason
    assert ended.message["message"] == f"rank 0 ended with exit code {status} and left no message"


def test_a_rank_that_was_killed_is_named_with_the_signal(node: Node) -> None:
    ended = node(SLOW, "kill -KILL $$")
    assert ended.code == 70
    assert ended.message["rank"] == 1
    assert ended.message["message"] == "rank 1 killed by SIGKILL"


def test_a_rank_that_the_kernel_killed_for_memory_is_out_of_memory(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = iter((4, 5))
    monkeypatch.setattr(oomwatch, "kills", lambda: next(counter))
    ended = node(SLOW, "kill -KILL $$")
    assert (ended.code, ended.message["reason"]) == (68, "OutOfMemory")
    assert ended.message["message"] == "rank 1 was killed for memory by the kernel (SIGKILL)"


def test_an_older_kill_for_memory_is_not_taken_for_this_one(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oomwatch, "kills", lambda: 4)
    assert node("kill -KILL $$").code == 70


def test_what_a_rank_wrote_about_its_end_is_told_whole(node: Node) -> None:
    ended = node(error_file(67, "NumericError", "loss is nan", rank=0, time=5.5))
    assert ended.code == 67
    assert ended.message == {
        "exitCode": 67,
        "reason": "NumericError",
        "message": "loss is nan",
        "rank": 0,
        "step": 3,
        "trace": "last line",
    }


def test_peers_that_lost_their_connection_first_are_not_the_cause(
    node: Node, tmp_path: Path
) -> None:
    """The rank that failed takes longer to end than the peers that noticed."""
    lost = "gloo: Connection reset by peer"
    begun = tmp_path / "begun"
    wait = f"until [ -e {begun} ]; do sleep 0.02; done"
    slow = f"trap '' TERM\ntouch {begun}\nsleep 0.4\n"
    ended = node(
        f"{wait}\n" + error_file(69, "CommunicationFailure", lost, rank=0, time=10.0),
        slow + error_file(65, "DatasetInvalid", "record 7", rank=1, time=11.0),
        f"{wait}\n" + error_file(69, "CommunicationFailure", lost, rank=2, time=10.5),
    )
    assert (ended.code, ended.message["message"]) == (65, "record 7")


def test_a_killed_rank_is_the_cause_and_not_the_peers_that_lost_it(node: Node) -> None:
    lost = error_file(69, "CommunicationFailure", "reset by peer", rank=0, time=9e9)
    ended = node(f"trap '' TERM\nsleep 0.4\n{lost}", "sleep 0.1; kill -SEGV $$")
    assert (ended.code, ended.message["rank"]) == (70, 1)
    assert ended.message["message"] == "rank 1 killed by SIGSEGV"


def test_a_rank_that_is_stopped_is_named_and_not_the_peers_that_wait(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWENFT_STALL_SECONDS", "1")
    ended = node(SLOW, SLOW, "kill -STOP $$")
    assert (ended.code, ended.message["reason"], ended.message["rank"]) == (69, "Hung", 2)
    assert "the process of rank 2 is stopped" in ended.message["message"]


def leaves_word(rank: int) -> str:
    """Return the commands by which a rank leaves word of its standing still."""
    path = '"$(dirname "$TORCHELASTIC_ERROR_FILE")/silence.json"'
    told = error_file(69, "Hung", "no sign of life for 61 s", rank=rank, time=50.0)
    return told.replace('"$TORCHELASTIC_ERROR_FILE"', path).replace("exit 69", "")


def test_a_rank_that_its_peers_have_waited_for_in_vain_is_the_cause(
    node: Node, tmp_path: Path
) -> None:
    """It had to be ended with them, and would be said to have been killed by somebody."""
    begun = tmp_path / "begun"
    lost = error_file(69, "CommunicationFailure", "Timed out waiting", rank=0, time=40.0)
    ended = node(f"until [ -e {begun} ]; do sleep 0.02; done\n{lost}",
                 f"{leaves_word(1)}\ntouch {begun}\nkill -KILL $$")  # fmt: skip
    assert (ended.code, ended.message["reason"], ended.message["rank"]) == (69, "Hung", 1)
    assert "no sign of life" in ended.message["message"]


def test_who_was_silent_is_not_to_blame_for_another_error(node: Node, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    broken = error_file(65, "DatasetInvalid", "record 7", rank=0, time=60.0)
    ended = node(f"until [ -e {begun} ]; do sleep 0.02; done\n{broken}",
                 f"{leaves_word(1)}\ntouch {begun}\n{SLOW}")  # fmt: skip
    assert (ended.code, ended.message["message"]) == (65, "record 7")


@pytest.mark.parametrize(("saves", "reason"), [(False, "Hung"), (True, "Preempted")])
def test_word_of_a_rank_that_stands_still_is_told_where_the_node_is_asked_to_end_and_none_saves(
    node: Node, tmp_path: Path, *, saves: bool, reason: str
) -> None:
    begun = tmp_path / "begun"
    saved = error_file(64, "Preempted", "saved after step 3", rank=0, time=9.0)

    def ask() -> None:
        while not begun.exists():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    ended = node(saved.replace("exit 64", SLOW) if saves else SLOW,
                 f"sleep 0.3\n{leaves_word(1)}\ntouch {begun}\n{SLOW}")  # fmt: skip
    thread.join()
    assert (ended.message["reason"], ended.message["rank"]) == (reason, 0 if saves else 1)


def test_a_rank_that_stood_still_is_told_although_the_node_was_asked_to_end(
    node: Node, tmp_path: Path
) -> None:
    """Its peers' pods have lost it and ended first: the rest of the gang is then deleted."""
    begun = tmp_path / "begun"
    lost = error_file(64, "Preempted", "asked to stop", rank=0, time=9.0)
    stood = error_file(69, "Hung", "no sign of life", rank=1, time=10.0)

    def ask() -> None:
        while not begun.exists():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    ended = node(f"trap '' TERM\nuntil [ -e {begun} ]; do sleep 0.02; done\n{lost}",
                 stood.replace("exit 69", f"touch {begun}; sleep 30"))  # fmt: skip
    thread.join()
    assert (ended.code, ended.message["reason"], ended.message["rank"]) == (69, "Hung", 1)


def test_of_two_real_causes_the_earlier_is_told_even_if_it_ends_later(
    node: Node, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    late = error_file(70, "WorkerError", "boom", rank=0, time=200.0)
    early = error_file(67, "NumericError", "loss is nan", rank=1, time=100.0)
    ended = node(
        f"until [ -e {begun} ]; do sleep 0.02; done\n{late}",
        f"trap '' TERM\ntouch {begun}\nsleep 0.4\n{early}",
    )
    assert (ended.code, ended.message["message"]) == (67, "loss is nan")


def test_an_error_file_that_is_no_such_file_leaves_the_exit_status_to_speak(node: Node) -> None:
    ended = node('echo "{" > "$TORCHELASTIC_ERROR_FILE.part"; exit 65')
    assert ended.message["message"] == "rank 0 ended with exit code 65 and left no message"


def test_ranks_that_all_end_well_complete_the_run(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = node("exit 0", "exit 0")
    assert ended.code == 0
    assert ended.message == {"exitCode": 0, "reason": "Completed", "result": {}}
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == ended.message


def test_the_result_that_rank_0_left_is_told(node: Node) -> None:
    ended = node('echo \'{"steps": 80}\' > "$QWENFT_RESULT_FILE"')
    assert ended.message["result"] == {"steps": 80}


@pytest.mark.parametrize("content", ["[1, 2]", "{", "null"])
def test_a_result_that_is_no_object_is_told_as_none(node: Node, content: str) -> None:
    ended = node(f"echo '{content}' > \"$QWENFT_RESULT_FILE\"")
    assert (ended.code, ended.message["result"]) == (0, {})


def test_a_result_does_not_hide_a_failure(node: Node) -> None:
    ended = node('echo \'{"steps": 80}\' > "$QWENFT_RESULT_FILE"; exit 67')
    assert ended.code == 67
    assert "result" not in ended.message


def test_the_cause_is_the_last_line_of_standard_error(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = node("exit 65")
    assert json.loads(capsys.readouterr().err.splitlines()[-1]) == ended.message


def test_ranks_know_who_they_are(node: Node, tmp_path: Path) -> None:
    tell = f'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR" > {tmp_path}/told-$RANK'
    assert node(tell, tell).code == 0
    assert (tmp_path / "told-0").read_text() == "0 0 2 127.0.0.1\n"
    assert (tmp_path / "told-1").read_text() == "1 1 2 127.0.0.1\n"


def test_a_plan_for_more_processes_stops_the_run_before_a_rank_starts(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_plan(tmp_path, make_plan(nodes=2, processes_per_node=2))
    monkeypatch.setenv("QWENFT_PLAN", str(path))
    ended = node(f"touch {tmp_path}/started")
    assert (ended.code, ended.message["reason"]) == (66, "PlanInvalid")
    assert f"{path}: world_size is 4" in ended.message["message"]
    assert "--nnodes=2 --nproc-per-node=2" in ended.message["message"]
    assert not (tmp_path / "started").exists()


def test_a_plan_for_these_processes_lets_them_start(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_plan(tmp_path, make_plan(processes_per_node=2))
    monkeypatch.setenv("QWENFT_PLAN", str(path))
    assert node("exit 0", "exit 0").code == 0


def test_a_command_that_does_not_exist_ends_in_a_typed_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setenv("QWENFT_TERMINATION_LOG", str(log))
    monkeypatch.setenv("QWENFT_RESULT_FILE", "set anew by the launcher")
    assert launch.main(["--no-python", "/nowhere/at/all"]) == 70
    message = json.loads(log.read_text())
    assert "/nowhere/at/all" in message["message"]
    assert message["reason"] == "WorkerError"


def test_a_termination_log_that_cannot_be_written_changes_no_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QWENFT_TERMINATION_LOG", str(tmp_path / "gone" / "log"))
    monkeypatch.setenv("QWENFT_RESULT_FILE", "set anew by the launcher")
    assert launch.main(["--no-python", "bash", "-c", "exit 65"]) == 65
    assert f"{tmp_path}/gone/log cannot be written" in capsys.readouterr().err


def test_a_node_that_is_told_to_stop_ends_as_preempted(node: Node, tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)

    def stop_when_started() -> None:
        started.read_text()
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop_when_started)
    stopper.start()
    ended = node(f"echo > {started}; exec sleep 60")
    stopper.join()
    assert (ended.code, ended.message["reason"]) == (64, "Preempted")
    assert ended.message["message"] == "the launcher received SIGTERM"


def test_what_a_rank_says_of_its_preemption_is_told(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    in_hand, start = threading.Event(), LocalElasticAgent._start_workers

    def start_workers(agent: LocalElasticAgent, group: WorkerGroup) -> dict[int, Any]:
        workers: dict[int, Any] = start(agent, group)
        in_hand.set()
        return workers

    monkeypatch.setattr(LocalElasticAgent, "_start_workers", start_workers)

    def stop_when_started() -> None:
        started.read_text()
        # A rank that the agent does not hold yet is ended without a word.
        in_hand.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop_when_started)
    stopper.start()
    saved = error_file(64, "Preempted", "saved after step 12", rank=0, time=7.0)
    ended = node(
        f"save() {{\n{saved}\n}}\ntrap save TERM\necho > {started}\nwhile :; do sleep 0.02; done"
    )
    stopper.join()
    assert (ended.code, ended.message["message"]) == (64, "saved after step 12")
