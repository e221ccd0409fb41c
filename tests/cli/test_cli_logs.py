from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qwenft_cli.failure import BAD_INPUT, CliError
from qwenft_cli.logs import choose

Make = Callable[..., dict[str, Any]]
PLAN = {"worldSize": 4, "processesPerNode": 2}


@pytest.mark.parametrize(("rank", "index"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_a_rank_lives_in_the_pod_of_its_node(
    make_run: Make, make_pod: Make, rank: int, index: int
) -> None:
    pods = [make_pod(0), make_pod(1)]
    assert choose(make_run(plan=PLAN, attempt=1), pods, rank) == f"tiny-1-{index}-abcde"


def test_the_newest_attempt_is_meant(make_run: Make, make_pod: Make) -> None:
    pods = [make_pod(0, attempt=1), make_pod(0, attempt=2)]
    assert choose(make_run(plan=PLAN, attempt=2), pods, 0) == "tiny-2-0-abcde"


def test_a_rank_that_the_plan_does_not_have_is_bad_input(make_run: Make) -> None:
    with pytest.raises(CliError, match="ranks 0 to 3, not 4") as caught:
        choose(make_run(plan=PLAN), [], 4)
    assert caught.value.exit_code == BAD_INPUT


def test_a_pod_that_is_gone_leads_to_the_status(make_run: Make) -> None:
    with pytest.raises(CliError, match="no pod for rank 1 of attempt 1") as caught:
        choose(make_run(plan=PLAN), [], 1)
    assert "qwenft status tiny" in caught.value.next_step


def test_the_failed_pod_is_the_one_in_the_status(make_run: Make, make_pod: Make) -> None:
    pods = [make_pod(0), make_pod(1)]
    failure = {"attempt": 1, "rank": 2, "pod": "tiny-1-1-abcde"}
    assert choose(make_run(plan=PLAN, failure=failure), pods, None) == "tiny-1-1-abcde"


def test_a_failure_without_a_pod_is_found_by_its_rank(make_run: Make, make_pod: Make) -> None:
    pods = [make_pod(1, attempt=1), make_pod(1, attempt=2)]
    body = make_run(plan=PLAN, attempt=2, failure={"attempt": 1, "rank": 3})
    assert choose(body, pods, None) == "tiny-1-1-abcde"


def test_without_a_failure_there_is_no_failed_rank(make_run: Make) -> None:
    with pytest.raises(CliError, match="no failed rank"):
        choose(make_run(plan=PLAN), [], None)


def test_the_verb_prints_the_log(
    cluster: Any,
    qwenft: Callable[..., int],
    make_run: Make,
    make_pod: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster.stored["tiny"] = make_run(plan=PLAN, attempt=1)
    cluster.stored_pods = [make_pod(0), make_pod(1)]
    cluster.logs = {"tiny-1-0-abcde": ["zero"], "tiny-1-1-abcde": ["one", "two"]}
    assert qwenft("logs", "tiny", "--rank", "3", "-n", "team") == 0
    assert capsys.readouterr().out == "one\ntwo\n"
    assert cluster.addresses[0].namespace == "team"
    assert cluster.followed == []


def test_following_goes_on_as_more_is_written(
    cluster: Any, qwenft: Callable[..., int], make_run: Make, make_pod: Make
) -> None:
    cluster.stored["tiny"] = make_run(plan=PLAN)
    cluster.stored_pods = [make_pod(0)]
    cluster.logs = {"tiny-1-0-abcde": ["zero"]}
    assert qwenft("logs", "tiny", "-f") == 0
    assert cluster.followed == ["tiny-1-0-abcde"]


def test_rank_and_failed_exclude_each_other(qwenft: Callable[..., int]) -> None:
    with pytest.raises(SystemExit) as caught:
        qwenft("logs", "tiny", "--rank", "1", "--failed")
    assert caught.value.code == BAD_INPUT
