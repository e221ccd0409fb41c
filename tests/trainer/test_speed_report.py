"""The figures of `make bench`: what is counted, compared and published."""

import json
from pathlib import Path

import pytest
import torch

from speed import tune
from speed.contenders import TORCHTUNE, TUNED, TUNED_SHARDS, torchtune
from speed.report import LOOP, TRAINER, WIDE, Rounds, demands, document, ratio
from speed.work import CLIP, IGNORED, RATE, Timed, Work, padded

pytestmark = pytest.mark.torch

WORK = Work(steps=3, warm=1)


def rounds(**speeds: list[float]) -> Rounds:
    """Return made-up rounds of all contenders: 100 tokens/s unless another speed is given."""
    names = {name for demand in demands(0.5) for name in (demand.ours, demand.theirs)}
    return {
        name: [
            {"tokens_per_second": speed, "losses": [9.0, 8.0], "note": "", "peak_bytes": 2**30}
            for speed in speeds.get(name, [100.0, 100.0, 100.0])
        ]
        for name in sorted(names)
    }


def test_the_load_is_the_same_every_time() -> None:
    once, again = WORK.samples(), Work(steps=3, warm=1).samples()
    assert len(once) == WORK.rows * 4
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_the_fill_counts_real_tokens_among_padded_positions() -> None:
    positions = sum(padded(batch)["input_ids"].numel() for batch in WORK.batches())
    real = sum(int(padded(batch)["attention_mask"].sum()) for batch in WORK.batches())
    assert WORK.fill() == pytest.approx(real / positions)
    assert 0.3 < WORK.fill() < 0.7
    assert sum(WORK.tokens()) == real


def test_padding_is_not_trained() -> None:
    made = padded([torch.tensor([5, 6, 7]), torch.tensor([8])])
    assert made["labels"].tolist() == [[5, 6, 7], [8, IGNORED, IGNORED]]
    assert made["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_warm_up_steps_are_not_timed() -> None:
    clock = Timed(work=WORK)
    for end in (100.0, 101.0, 102.0, 103.0):
        clock.ends.append(end)
    assert clock.result()["tokens_per_second"] == pytest.approx(sum(WORK.tokens()[1:]) / 3)


def test_a_ratio_is_taken_within_a_round() -> None:
    demand = demands(0.5)[0]
    found = rounds(**{demand.ours: [10.0, 220.0, 30.0], demand.theirs: [10.0, 200.0, 20.0]})
    assert ratio(found, demand) == pytest.approx(1.1)


def test_packing_must_win_back_three_quarters_of_what_padding_wastes() -> None:
    assert [round(demand.least, 2) for demand in demands(0.5)] == [1.02, 1.05, 1.5, 0.95, 0.97]


@pytest.mark.parametrize(("speed", "verdict"), [(1.04, "**not met**"), (1.06, "met")])
def test_a_missed_demand_is_published_as_one(speed: float, verdict: str) -> None:
    demand = demands(WORK.fill())[1]
    assert demand.theirs == TRAINER
    found = rounds(**{demand.ours: [speed * 100.0] * 3})
    text = document(WORK, found, {LOOP: found[LOOP], "ours": found[LOOP]}, load=7.0)
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {demand.what}")]
    assert row.endswith(f"| ≥ 1.05 | {speed:.2f} | {verdict} |")


def test_the_document_says_what_was_measured_and_where() -> None:
    found = rounds()
    memory = {LOOP: [{"peak_bytes": 4 * 2**30}], "ours": [{"peak_bytes": 2**30}]}
    text = document(WORK, found, memory, load=7.0)
    assert "load average was 7" in text
    assert f"**{WORK.fill():.0%}**" in text
    assert "| 9.00000 | 8.00000 |" in text
    assert "1.00 GiB, the HF loop 4.00 GiB, ratio 0.25 (required ≤ 0.50: met)" in text
    assert f"{WIDE.vocabulary:,}" in text


def test_a_peer_that_was_not_there_is_named_as_not_measured() -> None:
    found = rounds()
    text = document(WORK, found, {LOOP: found[LOOP], "ours": found[LOOP]}, load=7.0)
    assert "Not measured: torchtitan" in text
    assert "and torchtune (`make bench TORCHTUNE=…`" in text
    assert f"| {TUNED}" not in text


def test_a_peer_that_was_there_is_compared_without_a_demand() -> None:
    peers = {
        name: [{**one, "tokens_per_second": 50.0, "note": "torchtune 0.6.1"} for one in some]
        for name, some in ((TUNED, rounds()[LOOP]), (TUNED_SHARDS, rounds()[LOOP]))
    }
    found = {**rounds(), **peers}
    text = document(WORK, found, {LOOP: found[LOOP], "ours": found[LOOP]}, load=7.0)
    assert "| 1 process, padded / torchtune | – | 2.00 | |" in text
    assert "| shard 2, padded / torchtune | – | 2.00 | |" in text
    assert f"| {TUNED} | 50 | 50 – 50 | torchtune 0.6.1 |" in text
    assert "and torchtune (" not in text


def test_a_peer_is_told_the_same_load_and_its_clock_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    told = json.dumps({"ends": [1.0, 2.0], "losses": [9.0, 8.0], "note": "torchtune 1"})
    program.write_text(f'#!/bin/sh\necho "$3" > {tmp_path}/load\necho \'{told}\' > "$5"\n')
    program.chmod(0o700)
    monkeypatch.setenv(TORCHTUNE, str(program))
    clock = Timed(work=WORK)
    torchtune(WORK, tmp_path, clock)
    assert Work(**json.loads((tmp_path / "load").read_text())) == WORK
    assert (clock.ends, clock.losses, clock.note) == ([1.0, 2.0], [9.0, 8.0], "torchtune 1")


def test_torchtune_s_recipe_is_given_the_model_that_all_train(tmp_path: Path) -> None:
    WORK.write_model(tmp_path / "model")
    found = tune.config(WORK, tmp_path, ranks=2)
    model = json.loads((tmp_path / "model" / "config.json").read_text())
    assert found["batch_size"] * 2 == WORK.rows
    assert found["model"]["rope_base"] == model["rope_parameters"]["rope_theta"]
    assert found["model"]["norm_eps"] == model["rms_norm_eps"]
    assert found["model"]["intermediate_dim"] == model["intermediate_size"]
    assert (found["optimizer"]["lr"], found["clip_grad_norm"]) == (RATE, CLIP)
