"""The notebook over a cluster in memory: what is read, what is written, what may go wrong."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from qwenft_operator.advice import NO_ADVICE
from qwenft_operator.experience import Finding
from qwenft_operator.notebook import Notebook
from qwenft_operator.port import Conflict, Refused, Unavailable
from qwenft_plan.lessons import KEPT_KEYS, Experience, Lessons, Pair
from simulated import World
from simulated.world import HOME

KIND = "H100-80GB.qwen2.full.bf16_mixed.tp1.pp1.none"
PLACE = ("ConfigMap", HOME, "qwenft-lessons")


def finding(run: str = "uid-1", speed: float = 0.9) -> Finding:
    return Finding(
        kind=KIND,
        experience=Experience(
            run=run,
            memory=Pair(predicted=60.0, measured=60.0),
            speed=Pair(predicted=100.0, measured=100.0 * speed),
        ),
    )


def notebook(world: World, *, learns: bool = True) -> Notebook:
    return Notebook(world, namespace=HOME, name="qwenft", learns=learns)


def record(book: Notebook, *findings: Finding) -> list[bool]:
    async def main() -> list[bool]:
        return list(await asyncio.gather(*(book.record(item) for item in findings)))

    return asyncio.run(main())


def stored(world: World) -> Lessons:
    return Lessons.from_data(world.objects[PLACE]["data"])


def test_the_first_lesson_makes_the_config_map_the_next_ones_replace_a_version() -> None:
    world = World()
    book = notebook(world)
    assert record(book, finding("a")) == [True]
    assert record(book, finding("b")) == [True]
    made, *applied = world.writes
    assert made == "create ConfigMap/qwenft-lessons"
    assert applied == ["apply ConfigMap/qwenft-lessons"] * 2
    assert stored(world).lesson(KIND).runs == 2


def test_many_runs_that_end_at_once_are_all_kept() -> None:
    world = World()
    assert record(notebook(world), *(finding(f"r{number}") for number in range(10))) == [True] * 10
    assert stored(world).lesson(KIND).runs == 10


def test_a_run_that_is_known_is_not_written_again() -> None:
    world = World()
    record(notebook(world), finding("a"))
    assert record(notebook(world), finding("a", speed=0.5)) == [True]
    assert len(world.writes) == 2


def test_two_operators_at_once_lose_nothing() -> None:
    world = World()
    one, two = notebook(world), notebook(world)

    async def main() -> None:
        await asyncio.gather(
            *(one.record(finding(f"one-{number}")) for number in range(4)),
            *(two.record(finding(f"two-{number}")) for number in range(4)),
        )

    asyncio.run(main())
    assert stored(world).lesson(KIND).runs == 8


class Contested(World):
    """A world in which somebody else always writes first."""

    async def create(self, manifest: Any) -> None:
        raise Conflict(manifest["metadata"]["name"])


def test_endless_conflicts_are_given_up_for_this_time() -> None:
    with pytest.raises(Conflict, match="changes all the time"):
        record(notebook(Contested()), finding())


class Silent(World):
    async def get(self, kind: str, namespace: str, name: str) -> Any:
        raise Unavailable(f"{kind} {namespace}/{name}")


class Forbidden(World):
    async def get(self, kind: str, namespace: str, name: str) -> Any:
        raise Refused(f"{kind} {namespace}/{name}", "configmaps is forbidden")


def test_an_apiserver_that_does_not_answer_is_waited_for() -> None:
    with pytest.raises(Unavailable):
        record(notebook(Silent()), finding())
    with pytest.raises(Unavailable):
        asyncio.run(notebook(Silent()).advice())


def test_without_the_right_to_read_plans_are_made_without_advice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = notebook(Forbidden())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert asyncio.run(book.advice()) == NO_ADVICE
    (told,) = (text for text in caplog.messages if "forbidden" in text)
    assert told.startswith("qwenft: planning without prices and lessons: ConfigMap qwenft-system/")


def test_without_the_right_to_write_nothing_is_learnt() -> None:
    world = World()
    world.refusals["ConfigMap"] = "forbidden"
    assert record(notebook(world), finding()) == [False]


def test_an_operator_that_must_not_learn_neither_reads_nor_writes_lessons() -> None:
    world = World()
    record(notebook(world), finding())
    book = notebook(world, learns=False)
    assert record(book, finding("b")) == [False]
    assert asyncio.run(book.advice()).lessons.runs == {}
    assert stored(world).lesson(KIND).runs == 1


def test_an_operator_without_a_namespace_has_no_notebook() -> None:
    world = World()
    book = Notebook(world, namespace="", name="qwenft")
    assert record(book, finding()) == [False]
    assert asyncio.run(book.advice()) == NO_ADVICE
    assert world.writes == []


def test_what_others_wrote_is_left_alone_and_counts_for_nothing() -> None:
    world = World()
    record(notebook(world), finding("a"))
    world.objects[PLACE]["data"]["x y"] = "<html>"
    assert record(notebook(world), finding("b")) == [True]
    assert world.objects[PLACE]["data"]["x y"] == "<html>"
    assert stored(world).lesson(KIND).runs == 2
    assert len(stored(world).ignored) == 1


def test_kinds_that_are_forgotten_leave_the_config_map() -> None:
    world = World()
    book = notebook(world)
    for number in range(KEPT_KEYS + 3):
        ended = f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z"
        item = finding(f"r{number}")
        experience = replace(item.experience, ended=ended)
        record(book, Finding(kind=f"kind-{number:03}", experience=experience))
    kept = list(world.objects[PLACE]["data"])
    assert len(kept) == KEPT_KEYS
    assert kept[0] == "kind-003"


def test_the_config_map_says_whose_it_is() -> None:
    world = World()
    record(notebook(world), finding())
    labels = world.objects[PLACE]["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "qwenft"
    assert "qwenft.dev/run" not in labels, "it is no child of a run"
