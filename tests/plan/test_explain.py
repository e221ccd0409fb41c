"""What a person reads: one line a plan, why it won, where its memory and time go."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache

import pytest

from planning import DEVICE, config, layout, planned, work
from qwenft_plan import explain
from qwenft_plan.cost import TimeParts
from qwenft_plan.inventory import Inventory, NodeShape
from qwenft_plan.memory import MemoryParts
from qwenft_plan.planner import Planned
from qwenft_plan.prices import Prices
from qwenft_plan.search import Refused

SEVEN = "Qwen/Qwen1.5-7B"


@cache
def seven(on: str = "1x8xH100") -> Planned:
    return planned(on, SEVEN)


def lost(**shape: object) -> Refused:
    return Refused(nodes=2, per_node=8, layout=layout(**shape), reason="", missing=1.0, work=work())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({}, "micro-batch 1"),
        ({"dp_shard": 16}, "shard 16 · micro-batch 1"),
        ({"dp_replicate": 16}, "replicate 16 · micro-batch 1"),
        ({"dp_shard": 8, "dp_replicate": 2}, "shard 8 × replicate 2 · micro-batch 1"),
        ({"dp_shard": 8, "tp": 2}, "shard 8 · tensor 2 · micro-batch 1"),
        ({"pp": 16, "schedule": "1F1B"}, "pipeline 16 (1F1B) · micro-batch 1"),
        ({"pp": 2, "tp": 8, "schedule": "GPipe"}, "tensor 8 · pipeline 2 (GPipe) · micro-batch 1"),
        ({"micro_batch": 4, "checkpointing": "full"}, "micro-batch 4 · full recompute"),
        ({"checkpointing": "selective"}, "micro-batch 1 · selective recompute"),
    ],
)
def test_a_plan_in_one_line_names_only_what_is_used(
    shape: dict[str, object], expected: str
) -> None:
    assert explain.summary(lost(**shape)) == f"2×8 {DEVICE.name} · {expected}"


def test_the_reason_counts_what_was_compared() -> None:
    found = re.match(r"Fastest of (\d+) plans that fit \((\d+) did not\)", seven().reason)
    assert found is not None
    assert int(found[1]) > 10
    assert int(found[2]) > 10


def test_the_reason_has_the_plan_s_speed_and_memory() -> None:
    chosen = seven().chosen
    assert f"{chosen.tokens_per_second:,.0f} tokens/s" in seven().reason
    usable = chosen.work.device.memory / 2**30
    assert f"{chosen.peak / 2**30:.1f} of {usable:.1f} GiB per device" in seven().reason


@pytest.mark.parametrize(
    ("on", "resources", "named"),
    [
        ("2x8xH100", {"nodes": {"min": 2}}, True),
        ("1x8xH100", {}, False),
        ("2x4xcpu-900G", {"nodes": {"min": 2}}, False),
    ],
)
def test_the_assumed_network_is_named_where_accelerators_use_one(
    on: str, resources: dict[str, object], *, named: bool
) -> None:
    reason = planned(on, SEVEN, resources=resources).reason
    assert ("GB/s between nodes" in reason) == named


def test_a_large_loss_is_named_with_its_share_of_the_step() -> None:
    nodes = tuple(
        NodeShape(name=name, product="H100", devices=8, network_bytes_per_second=1e8)
        for name in "ab"
    )
    slow = planned(Inventory(nodes=nodes), SEVEN, resources={"nodes": {"min": 2}})
    assert re.search(r"; \d+% of a step goes into [a-z -]+", slow.reason)


def test_each_loser_that_fits_lost_by_a_share_and_a_part_or_by_simplicity() -> None:
    pattern = r"\d+% slower: [a-z -]+ takes \d+\.\d\d s of a step|as fast, but less simple"
    reasons = [item.rejected for item in seven().alternatives if item.judged is not None]
    assert reasons
    assert all(re.fullmatch(pattern, text) for text in reasons), reasons


def test_each_loser_that_does_not_fit_says_by_how_much() -> None:
    reasons = [item.rejected for item in seven().alternatives if item.judged is None]
    assert reasons
    assert all(re.fullmatch(r"needs [\d.]+ GiB of [\d.]+", text) for text in reasons)


def test_a_plan_is_not_slower_than_itself() -> None:
    chosen = seven().chosen
    assert explain.slower(chosen, chosen) == "as fast, but less simple"


def test_the_part_that_makes_a_plan_slower_is_the_one_that_grew_most() -> None:
    for item in seven().alternatives:
        if item.judged is None or "slower" not in item.rejected:
            continue
        grown = {
            field.name: getattr(item.judged.time, field.name)
            - getattr(seven().chosen.time, field.name)
            for field in fields(TimeParts)
        }
        most = max(grown, key=lambda name: grown[name])
        assert f"{getattr(item.judged.time, most):.2f} s of a step" in item.rejected


def test_the_table_begins_with_the_plan_and_its_reason() -> None:
    first, second, *_ = explain.table(seven()).splitlines()
    assert (first, second) == (seven().summary, seven().reason)


def test_the_table_has_every_part_of_memory_that_counts() -> None:
    line = next(row for row in explain.table(seven()).splitlines() if "memory GiB" in row)
    for field in fields(MemoryParts):
        value = getattr(seven().chosen.memory, field.name) / 2**30
        assert (f"{field.name} {value:.2f}" in line) == (value >= 0.005)


def test_the_table_has_every_part_of_a_step_that_counts() -> None:
    line = next(row for row in explain.table(seven()).splitlines() if "step s" in row)
    for field in fields(TimeParts):
        value = getattr(seven().chosen.time, field.name)
        assert (f"{field.name} {value:.2f}" in line) == (value >= 0.005)


def test_the_table_predicts_memory_speed_and_utilisation() -> None:
    text, predicted = explain.table(seven()), seven().predicted
    assert f"{predicted.memory_gib:.1f} GiB per device" in text
    assert f"{predicted.tokens_per_second:,.0f} tokens/s" in text
    assert f"MFU {predicted.mfu:.1%}" in text


def test_each_alternative_that_fits_has_its_parts() -> None:
    lines = explain.table(seven()).splitlines()
    below = [line for line in lines[lines.index("  alternatives") :] if line.startswith(" " * 6)]
    fitting = [item for item in seven().alternatives if item.judged is not None]
    assert len(below) == 3 * len(fitting)
    assert sum("GPU-hours per billion tokens" in line for line in below) == len(fitting)
    assert sum("memory GiB" in line for line in below) == len(fitting)


def test_the_table_lists_the_alternatives_in_one_column() -> None:
    lines = explain.table(seven()).splitlines()
    start = lines.index("  alternatives") + 1
    shown = [line for line in lines[start:] if not line.startswith(" " * 6)]
    assert len(shown) == len(seven().alternatives)
    places = {
        line.index(item.rejected) for line, item in zip(shown, seven().alternatives, strict=True)
    }
    assert len(places) == 1


def test_a_table_without_alternatives_has_no_such_heading() -> None:
    fixed = {"microBatchSize": 1, "activationCheckpointing": "none"}
    model = {"path": "/data/model", "config": config()}
    found = planned("1x1xcpu", model=model, parallelism=fixed)
    assert found.alternatives == ()
    assert "alternatives" not in explain.table(found)


def test_device_hours_are_in_the_table_and_money_where_a_price_is_known() -> None:
    hours = seven().chosen.device_hours_per_billion_tokens
    plain = explain.table(seven())
    assert f"{hours:,.1f} GPU-hours per billion tokens\n" in plain
    assert "an hour" not in plain
    priced = explain.table(seven(), Prices(hourly={"H100-80GB": 2.5}, currency="USD"))
    assert f"{hours * 2.5:,.2f} USD at 2.5 an hour" in priced


def test_each_alternative_has_its_own_cost() -> None:
    prices = Prices(hourly={"H100-80GB": 2.0})
    lines = explain.table(seven(), prices).splitlines()
    shown = [line for line in lines if line.startswith(" " * 6 + "cost")]
    costs = [prices.amount(item.judged) for item in seven().alternatives if item.judged]
    assert len(shown) == len(costs) == 5
    for line, cost in zip(shown, costs, strict=True):
        assert f", {cost:,.2f} at 2 an hour" in line


def test_the_price_of_another_device_is_of_no_use() -> None:
    prices = Prices(hourly={"A100-80GB": 2.5})
    assert explain.table(seven(), prices) == explain.table(seven())
    assert explain.priced(seven(), prices) == seven().reason


def test_the_reason_ends_in_the_cost_where_there_is_a_price() -> None:
    hours = seven().chosen.device_hours_per_billion_tokens
    told = explain.priced(seven(), Prices(hourly={"H100-80GB": 3.0}, currency="EUR"))
    cost = f" Takes {hours:,.1f} GPU-hours per billion tokens, {hours * 3:,.2f} EUR."
    assert told == seven().reason + cost


def test_a_table_ends_with_a_line_break_and_has_no_trailing_spaces() -> None:
    text = explain.table(seven())
    assert text.endswith("\n")
    assert all(line == line.rstrip() for line in text.splitlines())
