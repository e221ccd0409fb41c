"""torchrun's command line and variables, as the launcher reads them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from qwenft_trainer import launch
from qwenft_trainer.failure import CommunicationFailure
from qwenft_trainer.launch import parse, wait_for_name

pytestmark = pytest.mark.torch

BOOT = "qwenft_trainer.boot"


@pytest.fixture(autouse=True)
def _no_variables_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PET_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("argv", "arguments"),
    [
        ([], []),
        (["train.py"], ["train.py"]),
        (["train.py", "--epochs", "3"], ["train.py", "--epochs", "3"]),
        (["train.py", "a", "b"], ["train.py", "a", "b"]),
        (["-m", "user.train", "--x"], ["-m", "user.train", "--x"]),
        (["--nproc-per-node=2", "train.py"], ["train.py"]),
        (["--nproc-per-node=2"], []),
        (["train.py", "--nproc-per-node=9"], ["train.py", "--nproc-per-node=9"]),
    ],
    ids=str,
)
def test_every_rank_starts_in_boot_which_gets_the_script_and_its_arguments(
    argv: list[str], arguments: list[str]
) -> None:
    args = parse(argv)
    assert (args.training_script, args.module) == (BOOT, True)
    assert args.training_script_args == arguments


@pytest.mark.parametrize(
    ("argv", "script", "arguments"),
    [
        (["--no-python", "bash", "-c", "true"], "bash", ["-c", "true"]),
        (["--no-python", "true"], "true", []),
    ],
    ids=str,
)
def test_a_command_that_is_no_python_is_run_as_it_is(
    argv: list[str], script: str, arguments: list[str]
) -> None:
    args = parse(argv)
    assert (args.training_script, args.training_script_args) == (script, arguments)
    assert not args.module


def test_torchruns_flags_mean_what_they_mean_there() -> None:
    args = parse(["--nnodes=2", "--nproc-per-node=4", "--node-rank=1", "--max-restarts=3", "x.py"])
    assert (args.nnodes, args.nproc_per_node, args.node_rank, args.max_restarts) == ("2", "4", 1, 3)


@pytest.mark.parametrize(
    ("variable", "value", "attribute", "expected"),
    [
        ("PET_NNODES", "2", "nnodes", "2"),
        ("PET_NPROC_PER_NODE", "4", "nproc_per_node", "4"),
        ("PET_NODE_RANK", "1", "node_rank", 1),
        ("PET_RDZV_BACKEND", "c10d", "rdzv_backend", "c10d"),
        ("PET_RDZV_ID", "uid-3", "rdzv_id", "uid-3"),
        ("PET_RDZV_ENDPOINT", "tiny-1-0.tiny:29400", "rdzv_endpoint", "tiny-1-0.tiny:29400"),
        ("PET_MASTER_ADDR", "tiny-1-0.tiny", "master_addr", "tiny-1-0.tiny"),
        ("PET_MASTER_PORT", "29511", "master_port", 29511),
        ("PET_MAX_RESTARTS", "0", "max_restarts", 0),
    ],
)
def test_the_pods_variables_are_read(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, attribute: str, expected: object
) -> None:
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv(variable, value)
    assert getattr(parse([]), attribute) == expected


def test_one_node_without_an_address_meets_itself_on_a_free_local_port() -> None:
    args = parse(["train.py"])
    assert (args.rdzv_backend, args.rdzv_endpoint) == ("c10d", "localhost:0")
    assert args.rdzv_id == f"local-{os.getpid()}"
    assert args.local_addr == "127.0.0.1"


def test_an_address_that_was_given_is_kept_on_one_node() -> None:
    args = parse(["--local-addr=127.0.0.2", "train.py"])
    assert args.local_addr == "127.0.0.2"


@pytest.mark.parametrize(
    "argv",
    [
        ["--nnodes=2", "--master-addr=a"],
        ["--nnodes=1", "--master-port=29600"],
        ["--nnodes=1", "--rdzv-endpoint=a:29600"],
        ["--nnodes=1:2"],
    ],
    ids=str,
)
def test_nodes_that_have_a_place_to_meet_keep_it(argv: list[str]) -> None:
    args = parse(argv)
    assert args.rdzv_backend == "static"
    assert args.rdzv_endpoint != "localhost:0"
    assert args.local_addr is None


def test_torchruns_port_is_the_one_of_a_static_rendezvous() -> None:
    assert parse(["--nnodes=2", "--master-addr=a"]).master_port == 29500
    assert parse(["--nnodes=2", "--master-port=29600"]).master_port == 29600


def test_an_unknown_flag_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--flavour=new", "train.py"])
    assert caught.value.code == 2
    assert "--flavour" in capsys.readouterr().err


def test_a_name_that_resolves_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.time, "sleep", lambda _: pytest.fail("it waited"))
    wait_for_name("127.0.0.1", timeout=0.0)
    wait_for_name("localhost", timeout=0.0)


def test_a_name_that_appears_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[bool] = iter((False, False, True))
    asked: list[str] = []

    def resolve(host: str, _port: object) -> None:
        asked.append(host)
        if not next(answers):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(launch, "RESOLVE_PAUSE_SECONDS", 0.0)
    wait_for_name("tiny-1-0.tiny", timeout=60.0)
    assert asked == ["tiny-1-0.tiny"] * 3


def test_a_name_that_never_appears_is_a_failure_to_communicate_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolve(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(launch, "RESOLVE_PAUSE_SECONDS", 0.0)
    with pytest.raises(CommunicationFailure) as caught:
        wait_for_name("tiny-1-0.tiny", timeout=0.05)
    assert "'tiny-1-0.tiny' did not resolve within 0 s" in str(caught.value)
    assert "Name or service not known" in str(caught.value)


def test_a_name_that_the_dns_has_denied_is_asked_for_until_it_has_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cluster's DNS remembers for half a minute that there was no such name."""
    clock, asked = [100.0], []

    def ask(_host: str, _port: object) -> list[object]:
        asked.append(clock[0] - 100.0)
        if clock[0] < 100.0 + 30.0:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return []

    def pause(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(launch.socket, "getaddrinfo", ask)
    monkeypatch.setattr(launch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(launch.time, "sleep", pause)
    wait_for_name("tiny-1-0.tiny", timeout=900.0)
    assert asked[-1] == pytest.approx(30.0, abs=1.1)
    assert len([each for each in asked if each < 5.0]) >= 45
    assert len(asked) < 80
