"""Prices and lessons on the command line: from the operator's namespace, or from arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwenft_cli.failure import CliError
from qwenft_plan.lessons import NO_LESSONS, Experience, Pair

Verb = Callable[..., int]
Make = Callable[..., dict[str, Any]]
KIND = "CPU.qwen2.full.bf16_mixed.tp1.pp1.none.e7"


def lessons(kind: str, speed: float = 0.8, runs: int = 4) -> dict[str, str]:
    found = NO_LESSONS
    for number in range(runs):
        experience = Experience(
            run=f"uid-{number}",
            memory=Pair(predicted=1.0, measured=1.1),
            speed=Pair(predicted=100.0, measured=100.0 * speed),
        )
        found = found.after(kind, experience)
    return found.to_data()


def kind_of(tiny: Path) -> str:
    """Return the kind of run that the tiny file is, whatever its precision."""
    spec = yaml.safe_load(tiny.read_text(encoding="utf-8"))["spec"]
    precision = spec.get("training", {}).get("precision", "bf16")
    return KIND if precision == "bf16" else KIND.replace("bf16_mixed", "fp32")


def config_map(data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data}


def test_prices_and_lessons_come_from_the_cluster_with_the_nodes(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored_nodes = [make_node("a"), make_node("b")]
    prices = {"prices": '{"cpu": 0.05}', "currency": "EUR"}
    cluster.config_maps["qwenft-system/qwenft-planner"] = config_map(prices)
    cluster.config_maps["qwenft-system/qwenft-lessons"] = config_map(lessons(kind_of(tiny)))
    assert qwenft("plan", str(tiny)) == 0
    shown = capsys.readouterr()
    assert "corrected by 4 earlier runs (speed × 0.86" in shown.out
    assert "EUR at 0.05 an hour" in shown.out
    assert shown.err == ""


def test_another_operator_can_be_named(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored_nodes = [make_node("a"), make_node("b")]
    cluster.config_maps["ml/prod-lessons"] = config_map(lessons(kind_of(tiny)))
    assert qwenft("plan", str(tiny), "--operator", "ml/prod") == 0
    assert "earlier runs" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["qwenft", "/x", "x/", ""])
def test_half_a_name_of_an_operator_is_bad_input(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert qwenft("plan", str(tiny), "--operator", name) == 2
    assert "--operator" in capsys.readouterr().err


def test_without_the_right_to_read_them_the_plan_is_made_without(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored_nodes = [make_node("a"), make_node("b")]
    cluster.config_maps["qwenft-system/qwenft-lessons"] = CliError("configmaps is forbidden")
    assert qwenft("plan", str(tiny)) == 0
    shown = capsys.readouterr()
    note = "note: planning without the operator's lessons: configmaps is forbidden"
    assert note in shown.err
    assert "corrected" not in shown.out


def test_garbage_in_the_cluster_is_noted(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored_nodes = [make_node("a"), make_node("b")]
    cluster.config_maps["qwenft-system/qwenft-lessons"] = config_map({KIND: "<html>"})
    cluster.config_maps["qwenft-system/qwenft-planner"] = config_map({"prices": "[]"})
    assert qwenft("plan", str(tiny)) == 0
    told = capsys.readouterr().err
    assert f"note: lesson '{KIND}': is not JSON" in told
    assert "note: prices is no JSON object" in told


@pytest.mark.parametrize("wrapped", [True, False])
def test_lessons_may_come_from_a_file(
    qwenft: Verb, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, wrapped: bool
) -> None:
    file, data = tmp_path / "lessons.yaml", lessons(kind_of(tiny))
    file.write_text(yaml.safe_dump(config_map(data) if wrapped else data), encoding="utf-8")
    assert qwenft("plan", str(tiny), "--on", "2x1xcpu", "--lessons", str(file)) == 0
    assert "corrected by 4 earlier runs" in capsys.readouterr().out


def test_with_on_no_cluster_is_asked(
    cluster: Any, qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.config_maps["qwenft-system/qwenft-lessons"] = config_map(lessons(kind_of(tiny)))
    assert qwenft("plan", str(tiny), "--on", "2x1xcpu") == 0
    assert "corrected" not in capsys.readouterr().out
    assert cluster.addresses == []


@pytest.mark.parametrize(
    ("text", "told"),
    [("- 1\n", "it holds no mapping"), ("a: [", "while parsing"), ("kind: ConfigMap\ndata: 7\n",
                                                                  "its data is no mapping")],
)  # fmt: skip
def test_a_file_that_holds_no_lessons_is_bad_input(
    qwenft: Verb, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str,
    told: str,
) -> None:  # fmt: skip
    file = tmp_path / "lessons.yaml"
    file.write_text(text, encoding="utf-8")
    assert qwenft("plan", str(tiny), "--on", "2x1xcpu", "--lessons", str(file)) == 2
    assert told in capsys.readouterr().err


def test_a_missing_file_is_bad_input(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("plan", str(tiny), "--on", "2x1xcpu", "--lessons", "/nowhere") == 2
    assert "kubectl -n qwenft-system get configmap" in capsys.readouterr().err


def test_prices_may_come_from_the_command_line(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--price", "cpu=0.1", "--price", "H100-80GB=2.5")
    assert qwenft("plan", str(tiny), "--on", "2x1xcpu", *words) == 0
    assert " at 0.1 an hour" in capsys.readouterr().out


def test_a_price_of_one_s_own_goes_before_the_cluster_s(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored_nodes = [make_node("a"), make_node("b")]
    prices = {"prices": '{"cpu": 0.05}', "currency": "EUR"}
    cluster.config_maps["qwenft-system/qwenft-planner"] = config_map(prices)
    assert qwenft("plan", str(tiny), "--price", "cpu=7") == 0
    assert "EUR at 7 an hour" in capsys.readouterr().out


@pytest.mark.parametrize("price", ["cpu", "cpu=", "cpu=free", "abacus=1", "=1", "cpu=-1"])
def test_a_price_that_is_none_is_bad_input(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str], price: str
) -> None:
    assert qwenft("plan", str(tiny), "--on", "2x1xcpu", "--price", price) == 2
    assert "--price" in capsys.readouterr().err


def test_nodes_left_out_are_named_below_the_plan_and_when_nothing_fits(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cordoned = make_node("c")
    cordoned["spec"]["unschedulable"] = True
    cluster.stored_nodes = [make_node("a"), make_node("b"), cordoned]
    assert qwenft("plan", str(tiny)) == 0
    assert "left out: c (cordoned)" in capsys.readouterr().out
    cluster.stored_nodes = [make_node("a"), cordoned]
    assert qwenft("plan", str(tiny)) == 3
    assert "left out: c (cordoned)" in capsys.readouterr().err


def test_render_plans_as_the_operator_would(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored_nodes = [make_node("a"), make_node("b")]
    speeds = []
    for data in ({}, lessons(kind_of(tiny))):
        cluster.config_maps["qwenft-system/qwenft-lessons"] = config_map(data)
        assert qwenft("render", str(tiny)) == 0
        objects = yaml.safe_load_all(capsys.readouterr().out)
        plan = next(item for item in objects if item["kind"] == "ConfigMap")["data"]["plan.json"]
        speeds.append(json.loads(plan)["predicted"]["tokens_per_second"])
    assert speeds[1] == pytest.approx(0.86 * speeds[0], rel=0.01)
