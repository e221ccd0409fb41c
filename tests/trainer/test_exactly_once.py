"""A whole epoch over two changes of plan and a kill -9: every sample is trained exactly once.

Real ranks of the built-in loop. What counts is the history that survives: steps that were trained
after the last whole checkpoint are trained again, with the same samples, by the next attempt.
"""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from parity import gang, tiny
from parity.gang import Case

pytestmark = pytest.mark.torch

STEPS = 12
SAMPLES = tiny.ROWS * STEPS
STOPPED_AFTER, KILLED_AFTER, SAVED_EVERY = 4, 9, 3
PLANS = ({"dp_shard": 2}, {"pp": 2, "accumulation": 2}, {"tp": 2})


def records() -> list[dict[str, torch.Tensor]]:
    """Return samples of unequal length whose first token is their number."""
    lengths = torch.randint(6, 40, (SAMPLES,), generator=torch.Generator().manual_seed(1))
    made = []
    for number, length in enumerate(lengths.tolist()):
        tokens = (torch.arange(40) * 3 + number) % tiny.VOCABULARY
        made.append({"input_ids": tokens, "attention_mask": (torch.arange(40) < length).long()})
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("once")
    tiny.write_model(made / "model", tiny.make_config(num_hidden_layers=2))
    torch.save({"train": records()}, made / "data.pt")
    return made


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> Mapping[str, Any]:
    """Three attempts, each a gang of its own, and a run that nothing befalls."""

    def attempt(number: int, output: str = "run", **options: Any) -> Case:
        chosen = {
            "dataset": folder / "data.pt",
            "output": folder / output,
            "save_every": SAVED_EVERY,
            "attempt": number,
            "seen": folder / f"{output}-{number}",
            **options,
        }
        name, plan = f"{output} {number}", PLANS[number - 1]
        return Case(name=name, model=folder / "model", plan=plan, kind="loop", options=chosen)

    gangs = [
        [attempt(1, "undisturbed"), attempt(1, stop_after=STOPPED_AFTER)],
        [attempt(2, kill_after=KILLED_AFTER)],
        [attempt(3)],
    ]
    return {name: value for cases in gangs for name, value in gang.run(2, cases).items()}


def seen(folder: Path, name: str) -> dict[int, list[int]]:
    """Return the samples of each step that an attempt began, all its data ranks together."""
    found: dict[int, list[int]] = {}
    for path in sorted(folder.glob(f"{name}-*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            found.setdefault(entry["step"], []).extend(entry["samples"])
    return found


def test_every_sample_of_the_epoch_is_in_the_surviving_history_once(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["run 3"]["result"]["steps"] == STEPS
    attempts = [seen(folder, f"run-{number}") for number in (1, 2, 3)]
    history = attempts[0] | attempts[1] | attempts[2]
    assert sorted(history) == list(range(1, STEPS + 1))
    assert all(len(samples) == tiny.ROWS for samples in history.values())
    assert sorted(chain.from_iterable(history.values())) == list(range(SAMPLES))


def test_the_attempts_were_cut_off_where_they_should_be(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    first, second, third = (seen(folder, f"run-{number}") for number in (1, 2, 3))
    assert outcomes["run 1"]["error"]["step"] == STOPPED_AFTER
    assert (min(first), max(first)) == (1, STOPPED_AFTER)
    assert "losses" not in outcomes.get("run 2", {}), "it was killed"
    assert (min(second), max(second) >= KILLED_AFTER) == (STOPPED_AFTER + 1, True)
    assert STOPPED_AFTER < min(third) <= KILLED_AFTER, "what was lost is trained again"


def test_a_step_that_is_trained_again_has_the_same_samples(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["run 3"]["error"] is None
    second, third = seen(folder, "run-2"), seen(folder, "run-3")
    again = sorted(second.keys() & third.keys())
    assert again
    for step in again:
        assert sorted(second[step]) == sorted(third[step])


def test_the_losses_are_those_of_a_run_that_nothing_befell(outcomes: Mapping[str, Any]) -> None:
    expected = outcomes["undisturbed 1"]["losses"]
    assert len(expected) == STEPS
    for number in (1, 3):
        for step, loss in outcomes[f"run {number}"]["losses"].items():
            assert loss == pytest.approx(expected[step], abs=1e-5)
