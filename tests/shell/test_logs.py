"""Every line that is written during a look carries the run and its attempt."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
from kopf._core.actions.loggers import ObjectJsonFormatter

from qwenft_operator import logs
from simulated import World


@pytest.fixture(autouse=True)
def marked() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    logs.install()
    logs.install()
    yield
    logging.setLogRecordFactory(before)


def record(message: str = "hello") -> logging.LogRecord:
    return logging.getLogRecordFactory()("x", logging.INFO, "f", 1, message, (), None)


def test_a_line_outside_a_look_is_about_no_run() -> None:
    assert not hasattr(record(), "run")
    assert not hasattr(record(), "attempt")


def test_a_line_in_a_look_names_run_and_attempt() -> None:
    with logs.about("team/tiny"):
        assert record().run == "team/tiny"  # type: ignore[attr-defined]
        assert not hasattr(record(), "attempt"), "not known yet"
        logs.on_attempt(3)
        assert record().attempt == 3  # type: ignore[attr-defined]
    assert not hasattr(record(), "run")


def test_a_look_inside_another_starts_without_an_attempt() -> None:
    with logs.about("team/a"):
        logs.on_attempt(3)
        with logs.about("team/b"):
            assert not hasattr(record(), "attempt")
        assert record().run == "team/a"  # type: ignore[attr-defined]
        assert record().attempt == 3  # type: ignore[attr-defined]


def test_looks_at_once_do_not_take_each_other_s_marks() -> None:
    async def look(name: str, turn: asyncio.Barrier) -> str:
        with logs.about(name):
            await turn.wait()
            return str(record().run)  # type: ignore[attr-defined]

    async def both() -> list[str]:
        turn = asyncio.Barrier(2)
        return await asyncio.gather(look("a", turn), look("b", turn))

    assert asyncio.run(both()) == ["a", "b"]


def test_the_operator_s_json_lines_carry_both(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.submit()
    with caplog.at_level(logging.INFO, "qwenft_operator"):
        world.settle()
        world.tick()
    formatter = ObjectJsonFormatter()
    lines = [json.loads(formatter.format(item)) for item in caplog.records]
    assert lines
    for line in lines:
        assert line["run"] == "team/tiny"
        assert line["attempt"] in (0, 1)
        assert {"message", "severity", "timestamp"} <= line.keys()
