from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from qwenft_cli import watch
from qwenft_cli.failure import CliError

Make = Callable[..., dict[str, Any]]


def stages(cluster: Any, *bodies: dict[str, Any]) -> Callable[[float], None]:
    """Return a sleep that moves the stored run to its next state; the first is stored now."""
    rest = list(bodies)
    cluster.stored["tiny"] = rest.pop(0)

    def sleep(_seconds: float) -> None:
        following = rest.pop(0)
        if following:
            cluster.stored["tiny"] = following
        else:
            del cluster.stored["tiny"]

    return sleep


def terminal() -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=True)


def test_a_pipe_sees_each_change_once(
    cluster: Any, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    first = {"step": 1, "totalSteps": 2, "loss": 5.0}
    sleep = stages(
        cluster,
        make_run(phase="Pending"),
        make_run(phase="Pending"),
        make_run(phase="Training", progress=first),
        make_run(phase="Training", progress=first),
        make_run(phase="Succeeded", progress={**first, "step": 2, "loss": 4.0}),
    )
    last = watch.until_finished(cluster, "tiny", sleep=sleep)
    assert capsys.readouterr().out.splitlines() == [
        "tiny  Pending",
        "tiny  Training  step 1/2  loss 5.000",
        "tiny  Succeeded  step 2/2  loss 4.000",
    ]
    assert watch.exit_code(last) == 0


@pytest.mark.parametrize(("phase", "code"), [("Succeeded", 0), ("Failed", 1)])
def test_a_script_gets_the_object_once_the_run_has_ended(
    cluster: Any, make_run: Make, phase: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sleep = stages(cluster, make_run(phase="Pending"), make_run(phase=phase))
    assert watch.follow(cluster, "tiny", output="json", sleep=sleep) == code
    assert json.loads(capsys.readouterr().out)["status"] == {"phase": phase}


def test_a_run_that_failed_ends_with_one(
    cluster: Any, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = {"attempt": 1, "reason": "DatasetInvalid", "message": "no file", "exitCode": 65}
    sleep = stages(cluster, make_run(phase="Failed", failure=failure))
    last = watch.until_finished(cluster, "tiny", sleep=sleep)
    assert watch.exit_code(last) == 1
    assert "DatasetInvalid: no file" in capsys.readouterr().out


def test_a_terminal_is_redrawn_and_keeps_the_last_view(cluster: Any, make_run: Make) -> None:
    console = terminal()
    progress = [{"step": i, "totalSteps": 3, "loss": 6.0 - i} for i in (1, 2, 3)]
    sleep = stages(
        cluster,
        *(make_run(phase="Training", progress=one) for one in progress),
        make_run(phase="Succeeded", progress=progress[-1]),
    )
    screen = watch.Screen(console)
    watch.until_finished(cluster, "tiny", screen, sleep)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert screen.losses == [5.0, 4.0, 3.0]
    assert "█▅▁" in text
    assert "Succeeded" in text


def test_a_run_that_is_deleted_meanwhile_ends_the_watch(cluster: Any, make_run: Make) -> None:
    sleep = stages(cluster, make_run(phase="Training"), {})
    with pytest.raises(CliError, match="not found"):
        watch.until_finished(cluster, "tiny", sleep=sleep)


def test_a_late_watcher_gets_the_curve_from_the_log(
    cluster: Any, make_run: Make, make_pod: Make, report_lines: Callable[..., list[str]]
) -> None:
    cluster.stored_pods = [make_pod(0)]
    cluster.logs["tiny-1-0-abcde"] = report_lines([5.0, 4.0, 3.0])
    progress = {"step": 3, "totalSteps": 3, "loss": 3.0}
    sleep = stages(cluster, make_run(phase="Succeeded", attempt=1, progress=progress))
    screen = watch.Screen(terminal())
    watch.until_finished(cluster, "tiny", screen, sleep)
    assert screen.losses == [5.0, 4.0, 3.0]


def test_without_a_log_the_curve_begins_now(cluster: Any, make_run: Make, make_pod: Make) -> None:
    cluster.stored_pods = [make_pod(0)]
    cluster.stored["tiny"] = make_run(progress={"step": 1, "totalSteps": 3, "loss": 3.0})
    assert watch.history(cluster, watch.look(cluster, "tiny")) == ()


def test_only_the_pods_of_this_attempt_are_shown(
    cluster: Any, make_run: Make, make_pod: Make
) -> None:
    cluster.stored_pods = [make_pod(0, attempt=1), make_pod(0, attempt=2), make_pod(1, attempt=2)]
    cluster.stored["tiny"] = make_run(phase="Training", attempt=2)
    names = [worker.name for worker in watch.look(cluster, "tiny").workers]
    assert names == ["tiny-2-0-abcde", "tiny-2-1-abcde"]


def test_the_same_step_is_one_point_of_the_curve(cluster: Any, make_run: Make) -> None:
    same = make_run(phase="Training", progress={"step": 1, "totalSteps": 3, "loss": 3.0})
    cluster.stored["tiny"] = same
    screen = watch.Screen(terminal())
    with screen:
        for _ in range(3):
            screen.show(watch.look(cluster, "tiny"))
    assert screen.losses == [3.0]
