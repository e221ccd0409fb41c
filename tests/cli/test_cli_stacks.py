from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from qwenft_cli import makeup, page, stacks
from qwenft_cli.snapshot import of_run
from qwenft_cli.stacks import Part, Stack
from qwenft_operator import status
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import plan
from qwenft_plan.spec import FinetuneSpec
from simulated.builders import spec_mapping

Make = Callable[..., dict[str, Any]]
MEMORY = {"weights": 4.0, "gradients": 4.0, "optimizer": 8.0, "activations": 16.0, "logits": 4.0,
          "buffers": 2.0, "overhead": 2.0}  # fmt: skip
STEP = {"compute": 0.6, "tensor": 0.0, "shard": 0.2, "replicate": 0.1, "pipeline": 0.0,
        "bubble": 0.0, "optimizer": 0.05, "overhead": 0.05}  # fmt: skip


def planned(make_run: Make, **changes: Any) -> dict[str, Any]:
    chosen = {
        "summary": "2×8", "reason": "fastest",
        "predicted": {"memoryGiB": 40.0, "tokensPerSecond": 1000.0},
        "parts": {"deviceGiB": 80.0, "memoryGiB": MEMORY, "stepSeconds": STEP},
    }  # fmt: skip
    return make_run(phase="Training", plan=chosen | changes, measured={"tokensPerSecond": 800.0})


def widths(drawing: str) -> list[float]:
    return [float(found) for found in re.findall(r'<i style="width:([0-9.]+)%', drawing)]


def test_parts_are_drawn_on_the_device_s_memory(make_run: Make) -> None:
    drawn = makeup.memory(planned(make_run))
    assert drawn is not None
    assert widths(stacks.stack(drawn)) == [5.0, 5.0, 10.0, 20.0, 5.0, 2.5, 2.5]


def test_a_measured_step_is_as_much_longer_as_it_was_slower(make_run: Make) -> None:
    drawn = makeup.step(planned(make_run))
    assert drawn is not None
    assert drawn.measured == pytest.approx(1.0 * 1000 / 800)


def test_what_earlier_runs_taught_is_taken_out_before_steps_are_compared(make_run: Make) -> None:
    body = planned(make_run, correction={"speed": 0.5, "memory": 1.1, "runs": 2})
    drawn = makeup.step(body)
    assert drawn is not None
    # Alone the planner expected 2,000 tokens a second of a step of one second.
    assert drawn.measured == pytest.approx(2000 / 800)
    assert "memory × 1.10, speed × 0.50" in makeup.remark(body)


def test_without_lessons_nothing_is_remarked(make_run: Make) -> None:
    assert makeup.remark(planned(make_run)) == ""


def test_nothing_is_drawn_of_what_an_older_operator_did_not_tell(make_run: Make) -> None:
    body = planned(make_run, parts=None)
    assert makeup.memory(body) is None
    assert makeup.step(body) is None
    text = page.page(body, of_run(body), [], [], datetime(2026, 1, 2, tzinfo=UTC))
    assert "Memory of the fullest device" not in text


def test_a_part_keeps_its_colour_where_another_is_missing() -> None:
    def colour(parts: list[Part]) -> list[str]:
        return re.findall(
            r"background:var\((--p\d)\)\"></b>", stacks.stack(Stack(parts=parts, unit="s"))
        )

    full = [Part(what=str(i), value=1.0) for i in range(3)]
    assert colour(full) == ["--p0", "--p1", "--p2"]
    assert colour([full[0], Part(what="1", value=0.0), full[2]]) == ["--p0", "--p2"]


def test_numbers_have_the_digits_of_the_whole_and_shares() -> None:
    text = stacks.stack(
        Stack(parts=[Part(what="a", value=100.4), Part(what="b", value=0.83)], unit="s")
    )
    assert "100 s · 99%" in text
    assert "1 s · 1%" in text
    small = stacks.stack(
        Stack(parts=[Part(what="a", value=0.83), Part(what="b", value=0.05)], unit="s")
    )
    assert "0.830 s" in small
    assert "0.050 s" in small


def test_words_of_a_part_are_text() -> None:
    text = stacks.stack(Stack(parts=[Part(what="<b>", value=1.0)], unit="s"))
    assert "<b>" not in text.replace("<b style", "")


def test_nothing_at_all_draws_nothing() -> None:
    assert stacks.stack(Stack(parts=[Part(what="a", value=0.0)], unit="s")) == ""


def test_the_operator_tells_the_parts_that_the_report_draws() -> None:
    spec = FinetuneSpec.from_mapping(
        spec_mapping(model={"name": "Qwen/Qwen1.5-7B"}) | {"resources": {"gpusPerNode": 8}}
    )
    found = plan(
        spec=spec, model=ModelShape.for_spec(spec.model), inventory=Inventory.parse("2x8xH100")
    )
    body = {"status": {"plan": status.plan_block(found)}}
    memory, step = makeup.memory(body), makeup.step(body)
    assert memory is not None
    assert step is not None
    assert memory.total == pytest.approx(found.predicted.memory_gib, rel=1e-3)
    assert step.total == pytest.approx(found.chosen.time.total, rel=1e-4)
    assert len(memory.parts) == len(found.chosen.memory.__dataclass_fields__)
    assert len(step.parts) == len(found.chosen.time.__dataclass_fields__)
