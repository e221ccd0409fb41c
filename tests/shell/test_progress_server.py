"""The progress endpoint over loopback TLS: who may report, what is taken, what wakes the queue."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from qwenft_operator import names, progress_server
from qwenft_operator.port import Identity, Unavailable
from qwenft_operator.progress_server import Certificate, ProgressServer
from qwenft_operator.reconcile import Key
from qwenft_operator.reports import Reports
from serving import OWN, Call, make_certificates, serve, serve_raw, world_with_pods
from simulated import World


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_a_report_of_the_run_is_taken_and_wakes_it(certificates: Path) -> None:
    world = world_with_pods()

    async def scenario(call: Call) -> None:
        assert (await call())[0] == 200

    assert serve(world, certificates, scenario) == [Key("team", "tiny")]
    world.settle()
    assert world.status()["phase"] == "Training"
    assert world.status()["progress"]["step"] == 5
    assert world.status()["progress"]["loss"] == 1.5


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ({"token": ""}, 401, "needs the token of a pod"),
        ({"token": "forged"}, 401, "needs the token of a pod"),
        ({"name": "other"}, 403, "pod of team/tiny"),
        ({"namespace": "foreign"}, 403, "pod of team/tiny"),
        ({"body": {"qwenft": OWN | {"attempt": 2}}}, 403, "of attempt 1"),
        ({"body": {"qwenft": OWN | {"loss": "nan"}}}, 400, "loss"),
        ({"body": {"qwenft": {"attempt": 1}}}, 400, "step: is missing"),
        ({"body": {}}, 400, "trainerStatus: is missing"),
        ({"body": []}, 400, "must be a JSON object"),
        ({"data": b"{"}, 400, "is not JSON"),
        ({"data": b"[" * 5000}, 400, "is not JSON"),
        ({"data": b"x" * 70_000}, 413, ""),
    ],
)
def test_anything_else_is_refused_with_the_reason(
    certificates: Path, arguments: dict[str, Any], status: int, told: str
) -> None:
    world = world_with_pods()

    async def scenario(call: Call) -> None:
        code, text = await call(**arguments)
        assert (code, told in text) == (status, True), text

    assert serve(world, certificates, scenario) == []


def test_a_token_is_worth_nothing_once_its_pod_is_gone(certificates: Path) -> None:
    world = world_with_pods()

    async def scenario(call: Call) -> None:
        assert (await call())[0] == 200
        del world.objects["Pod", "team", "tiny-1-0-x"]
        assert (await call())[0] == 200  # still trusted
        world.now += 31
        assert (await call())[0] == 401

    serve(world, certificates, scenario)


def test_a_pod_that_took_the_name_of_another_is_not_believed(certificates: Path) -> None:
    world = world_with_pods()
    world.objects["Pod", "team", "tiny-1-0-x"]["metadata"]["uid"] = "another"

    async def scenario(call: Call) -> None:
        assert (await call())[0] == 401

    serve(world, certificates, scenario)


def test_an_attempt_that_was_cut_off_is_fenced(certificates: Path) -> None:
    world = world_with_pods()
    uid = world.objects[names.KIND, "team", "tiny"]["metadata"]["uid"]
    world.reports.fence(uid, 2)

    async def scenario(call: Call) -> None:
        code, text = await call()
        assert (code, "attempt 1 is over" in text) == (409, True)

    assert serve(world, certificates, scenario) == []


def test_an_apiserver_that_cannot_be_asked_means_later(certificates: Path) -> None:
    world = world_with_pods()

    async def review_token(_token: str, _audience: str) -> Identity | None:
        raise Unavailable("no answer")

    world.review_token = review_token  # type: ignore[method-assign]

    async def scenario(call: Call) -> None:
        assert (await call())[0] == 503

    serve(world, certificates, scenario)


def test_the_upstream_body_alone_is_understood(certificates: Path) -> None:
    world = world_with_pods()
    metrics = [
        {"name": "loss", "value": "1.25"},
        {"name": "global_step", "value": "30"},
        {"name": "max_steps", "value": 120},
        {"name": "oddity", "value": "text"},
    ]
    status = {"progressPercentage": 25, "estimatedRemainingSeconds": 60, "metrics": metrics}

    async def scenario(call: Call) -> None:
        assert (await call({"trainerStatus": status}))[0] == 200

    serve(world, certificates, scenario)
    world.settle()
    progress = world.status()["progress"]
    assert (progress["step"], progress["totalSteps"], progress["loss"]) == (30, 120, 1.25)
    assert progress["estimatedRemainingSeconds"] == 60


def test_a_renewed_certificate_is_taken_up(certificates: Path, tmp_path: Path) -> None:
    for file in certificates.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served = Certificate(context, tmp_path)
    assert served.refresh()
    assert not served.refresh()
    key = (tmp_path / "tls.key").read_bytes()
    (tmp_path / "tls.key").write_bytes(b"half written")
    assert not served.refresh()
    (tmp_path / "tls.key").write_bytes(key + b"\n")
    assert served.refresh()


def test_a_certificate_that_was_never_good_is_an_error(tmp_path: Path) -> None:
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(ssl.SSLError):
        Certificate(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), tmp_path).refresh()


def test_an_older_report_does_not_turn_the_clock_back(certificates: Path) -> None:
    world = world_with_pods()

    async def scenario(call: Call) -> None:
        await call({"qwenft": OWN | {"step": 9}})
        await call({"qwenft": OWN | {"step": 4}})

    serve(world, certificates, scenario)
    world.settle()
    assert world.status()["progress"]["step"] == 9


def test_tokens_that_are_not_believed_any_more_take_no_memory(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_server, "_MOST_TRUSTED", 4)
    world = world_with_pods()

    async def scenario(server: ProgressServer, _port: int) -> None:
        for index in range(20):
            world.tokens[f"renewed-{index}"] = world.tokens["token-0"]
            assert await server._reporter(f"Bearer renewed-{index}", "10.0.0.1") is not None
            world.now += 10
        assert len(server._trusted) <= 5

    serve_raw(world, certificates, scenario)


@pytest.mark.parametrize("scheme", ["Basic", "Token", "", "Bearers"])
def test_a_token_counts_under_its_own_scheme_alone(scheme: str) -> None:
    """Nor is the apiserver asked about what comes under another one."""
    world = world_with_pods()

    async def main() -> tuple[object, object]:
        server = ProgressServer(world, Reports(), lambda _key: None)
        return (
            await server._reporter(f"{scheme} token-0", "10.0.0.1"),
            await server._reporter("bEARER token-0", "10.0.0.1"),
        )

    other, own = World.wait_for(main())
    assert other is None
    assert own is not None
