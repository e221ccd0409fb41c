"""The picture of a plan: well-formed, complete, the same for the same plan."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from qwenft_plan.families import KNOWN
from qwenft_plan.guide import COUNTS, DEVICES, guide_row
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.picture import picture
from qwenft_plan.planner import Planned, plan
from qwenft_plan.spec import FinetuneSpec

SVG = "{http://www.w3.org/2000/svg}"
NAME = "Qwen/Qwen1.5-7B"


@pytest.fixture(scope="module")
def planned() -> Planned:
    spec = FinetuneSpec.from_mapping(
        {
            "model": {"name": NAME},
            "dataset": {"path": "/data/dataset.pt"},
            "output": {"path": "/data/out"},
        }
    )
    inventory = Inventory.parse("2x8xH100-80G")
    return plan(spec=spec, model=ModelShape.known(NAME), inventory=inventory)


def test_it_is_svg_with_a_bar_for_each_part(planned: Planned) -> None:
    root = ET.fromstring(picture(planned))  # noqa: S314 - made here
    titles = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert root.tag == f"{SVG}svg"
    for part in ("weights", "optimizer", "activations", "overhead", "compute"):
        assert any(title.startswith(part) for title in titles)


def test_it_names_winner_and_losers_twice(planned: Planned) -> None:
    root = ET.fromstring(picture(planned))  # noqa: S314 - made here
    texts = [element.text for element in root.iter(f"{SVG}text")]
    shown = [a.summary for a in planned.alternatives if a.judged is not None]
    assert all(texts.count(summary) == 2 for summary in (planned.summary, *shown))


def test_bars_stay_in_the_frame(planned: Planned) -> None:
    root = ET.fromstring(picture(planned))  # noqa: S314 - made here
    width = float(root.attrib["viewBox"].split()[2])
    bars = [
        element for element in root.iter(f"{SVG}rect") if element.find(f"{SVG}title") is not None
    ]
    assert all(float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width for bar in bars)


def test_equal_plans_give_equal_pictures(planned: Planned) -> None:
    assert picture(planned) == picture(planned)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "count"), [("qwen1.5-7b", 8), ("qwen3-14b", 16), ("qwen2.5-72b", 1)]
)
def test_the_parameter_guide_is_not_stale(name: str, device: str, count: int) -> None:
    from accuracy.parameters import PATH  # noqa: PLC0415

    section = PATH.read_text(encoding="utf-8").split(f"## {device}\n")[1].split("\n## ")[0]
    assert guide_row(name, device, count) in section.splitlines(), (
        "run PYTHONPATH=tests/support python -m accuracy.parameters"
    )


@pytest.mark.parametrize(
    ("name", "device", "count", "methods"),
    [
        ("qwen1.5-7b", "H100-80GB", 1, "offloaded, LoRA, QLoRA"),
        ("qwen3-4b", "A100-80GB", 1, "8-bit Adam, offloaded, LoRA, QLoRA"),
        ("qwen1.5-110b", "A100-80GB", 1, ""),
    ],
)
def test_where_all_weights_do_not_fit_the_guide_names_the_methods_that_do(
    name: str, device: str, count: int, methods: str
) -> None:
    cell = guide_row(name, device, count).split("|")[3].strip()
    assert cell == f"– {methods}".strip()


def test_the_parameter_guide_covers_every_size_device_and_count() -> None:
    from accuracy.parameters import PATH  # noqa: PLC0415

    text = PATH.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| qwen")]
    assert len(rows) == len(KNOWN) * len(DEVICES) * len(COUNTS)
