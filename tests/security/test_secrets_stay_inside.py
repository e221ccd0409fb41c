"""What a user wrote into variables and arguments is not told in logs, Events, status or plans."""

from __future__ import annotations

import json
import logging

import pytest

from qwenft_operator.cluster import _translated
from qwenft_operator.port import Unavailable
from serving import Call, make_certificates, serve, world_with_pods
from simulated import World
from simulated.controllers import Ending, fails, succeed_after

CANARY = "hf_VerySecretCanary0123"
TRAINER = {"env": [{"name": "HF_TOKEN", "value": CANARY}], "args": ["--key", CANARY]}


def told(world: World, caplog: pytest.LogCaptureFixture) -> str:
    """Return all that others than the run's author may read: logs, Events, status, ConfigMaps."""
    records = "\n".join(logging.Formatter().format(record) for record in caplog.records)
    return "\n".join(
        [
            records,
            json.dumps(world.events),
            json.dumps(world.status()),
            json.dumps([dict(item) for item in world.of_kind("ConfigMap")]),
        ]
    )


@pytest.mark.parametrize("code", [0, 65, 67, 68, 69, 70])
def test_no_end_of_a_run_tells_its_secrets(code: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world = World()
    world.program(succeed_after(5) if code == 0 else fails(code, attempts=9))
    world.submit(trainer=TRAINER)
    world.live_until("Succeeded", "Failed", seconds=400)
    assert world.events
    assert CANARY not in told(world, caplog)


def test_a_refused_object_tells_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world = World()
    world.refusals["Job"] = "exceeded quota"
    world.submit(trainer=TRAINER)
    world.settle()
    assert "exceeded quota" in world.status()["message"]
    assert CANARY not in told(world, caplog)


def test_a_wrong_request_tells_its_fields_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world = World()
    world.submit(trainer=TRAINER, training={"batchSize": -1})
    world.settle()
    assert "batchSize" in world.status()["message"]
    assert CANARY not in told(world, caplog)


def test_a_token_is_in_no_answer_and_no_log(
    caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    caplog.set_level(logging.DEBUG)
    world = world_with_pods()

    async def unavailable(_token: str, _audience: str) -> None:
        raise Unavailable("no answer")

    async def scenario(call: Call) -> None:
        answers = [await call(token=CANARY), await call(token=CANARY, name="other")]
        world.review_token = unavailable  # type: ignore[method-assign,assignment]
        answers.append(await call(token=CANARY))
        assert [code for code, _ in answers] == [401, 401, 503]
        assert CANARY not in str(answers)

    serve(world, make_certificates(tmp_path_factory.mktemp("certificates")), scenario)
    assert CANARY not in told(world, caplog)


def test_a_message_of_a_dead_container_is_data_and_bounded() -> None:
    world = World()
    message = {"exitCode": 70, "reason": "X" * 500, "message": "\x1b[31m" + "y" * 5000}

    def ends(_attempt: int, _rank: int, age: float) -> Ending | None:
        return Ending(code=70, message=message) if age >= 2 else None

    world.program(ends)
    world.submit()
    status = world.live_until("Failed", seconds=100)
    assert len(json.dumps(status)) < 16_000  # the sentence stands in each of six conditions
    assert all(len(item["message"]) <= 1024 for item in status["conditions"])
    assert len(status["failure"]["reason"]) <= 128


def test_what_the_apiserver_answers_is_passed_on_without_headers() -> None:
    class Answer(Exception):  # noqa: N818 - the shape that is translated
        code, message = 403, "forbidden"

    assert str(_translated("Job x", Answer())) == "Job x: forbidden"  # type: ignore[arg-type]
