from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwenft_cli.plan import wrapped
from qwenft_plan.plan import Plan

Verb = Callable[..., int]
Make = Callable[..., dict[str, Any]]


def test_the_plan_file_is_what_json_prints(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("plan", str(tiny), "--on", "2x1xcpu", "-o", "json") == 0
    plan = Plan.from_json(capsys.readouterr().out)
    assert (plan.nodes, plan.processes_per_node, plan.global_batch_size) == (2, 1, 8)


def test_the_table_names_choice_and_prediction(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("plan", str(tiny), "--on", "2x1xcpu") == 0
    out = capsys.readouterr().out
    assert out.startswith("2×1 CPU")
    assert "tokens/s" in out


def test_a_plot_draws_the_plan_beside_the_table(
    qwenft: Verb, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = tmp_path / "plan.svg"
    assert qwenft("plan", str(tiny), "--on", "2x1xcpu", "--plot", str(drawing)) == 0
    assert drawing.read_text(encoding="utf-8").startswith("<svg")
    assert capsys.readouterr().out.startswith("2×1 CPU")


def test_without_on_the_cluster_s_nodes_are_planned_for(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored_nodes = [make_node("a"), make_node("b")]
    assert qwenft("plan", str(tiny), "-o", "json", "-n", "team") == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == 2
    assert cluster.addresses[0].namespace == "team"


def test_busy_nodes_are_not_free(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stored_nodes = [make_node("a", cpu="2"), make_node("b", cpu="2")]
    cluster.busy = [hungry("a", "Running")]
    assert qwenft("plan", str(tiny)) == 3
    assert "no plan fits" in capsys.readouterr().err


def test_pods_that_have_ended_hold_nothing(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path
) -> None:
    cluster.stored_nodes = [make_node("a", cpu="2"), make_node("b", cpu="2")]
    cluster.busy = [hungry("a", "Succeeded"), hungry("b", "Failed")]
    assert qwenft("plan", str(tiny)) == 0


def hungry(node: str, phase: str) -> dict[str, Any]:
    containers = [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]
    return {
        "metadata": {"name": f"hungry-{node}"},
        "spec": {"nodeName": node, "containers": containers},
        "status": {"phase": phase},
    }


def test_the_file_s_namespace_is_asked_when_none_is_given(
    cluster: Any, qwenft: Verb, make_node: Make, tiny: Path
) -> None:
    cluster.stored_nodes = [make_node("a"), make_node("b")]
    tiny.write_text(tiny.read_text().replace("{name: tiny}", "{name: tiny, namespace: team}"))
    assert qwenft("plan", str(tiny)) == 0
    assert cluster.addresses[0].namespace == "team"


def test_a_degree_that_the_model_cannot_have_is_bad_input(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(tiny.read_text() + "  parallelism: {tensor: 3}\n")
    assert qwenft("plan", str(tiny), "--on", "3x1xcpu") in {2, 3}
    assert "3" in capsys.readouterr().err


def test_long_lines_break_at_blanks_and_are_indented() -> None:
    text = "  memory 0.5 GiB and more of it\nshort\n\n"
    assert wrapped(text, 20) == "  memory 0.5 GiB and\n      more of it\nshort\n\n"


@pytest.mark.parametrize("width", [30, 80, 10_000])
def test_wrapping_loses_no_word(width: int) -> None:
    text = "  one two three four five six seven eight nine ten · eleven\n"
    assert wrapped(text, width).split() == text.split()


def rendered(out: str) -> dict[str, dict[str, Any]]:
    return {body["kind"]: body for body in yaml.safe_load_all(out)}


def test_render_prints_the_objects_of_the_first_attempt(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("render", str(tiny), "--on", "2x1xcpu", "-n", "team") == 0
    objects = rendered(capsys.readouterr().out)
    assert list(objects) == ["ConfigMap", "Service", "NetworkPolicy", "Job"]
    assert {body["metadata"]["namespace"] for body in objects.values()} == {"team"}
    job = objects["Job"]
    assert job["metadata"]["name"] == "tiny-1"
    assert (job["spec"]["completions"], job["spec"]["backoffLimit"]) == (2, 0)


def test_rendered_as_json_the_objects_are_one_list(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("render", str(tiny), "--on", "2x1xcpu") == 0
    stream = list(yaml.safe_load_all(capsys.readouterr().out))
    assert qwenft("render", str(tiny), "--on", "2x1xcpu", "-o", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["apiVersion"], told["kind"]) == ("v1", "List")
    assert told["items"] == stream


def test_the_rendered_plan_is_the_printed_plan(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qwenft("plan", str(tiny), "--on", "2x1xcpu", "-o", "json")
    printed = capsys.readouterr().out
    qwenft("render", str(tiny), "--on", "2x1xcpu")
    config = rendered(capsys.readouterr().out)["ConfigMap"]
    assert json.loads(config["data"]["plan.json"]) == json.loads(printed)


def test_rendering_twice_gives_the_same_bytes(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for _ in range(2):
        qwenft("render", str(tiny), "--on", "2x1xcpu")
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_gpu_plans_ask_for_gpus(
    qwenft: Verb, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny.read_text().replace("{min: 2, max: 2}, processesPerNode: 1", "{max: 2}")
    tiny.write_text(text.replace("resources: {", "resources: {gpusPerNode: 2, "))
    assert qwenft("render", str(tiny), "--on", "2x2xH100-80G") == 0
    pod = rendered(capsys.readouterr().out)["Job"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}


def test_estimate_answers_each_line_in_order(
    qwenft: Verb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "model": "Qwen2.5-7B", "gpu": "H100", "n_gpus": 8, "gpus_per_node": 8, "seq_len": 4096,
        "global_batch": 64, "micro_batch": 1, "fsdp": 8, "precision": "bf16",
    }  # fmt: skip
    lines = [json.dumps(row), "", "not json", "[1]", json.dumps({**row, "gpu": "abacus"})]
    monkeypatch.setattr("sys.stdin", iter(f"{line}\n" for line in lines))
    assert qwenft("estimate") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sorted(answer) for answer in answers[1:]] == [["error"]] * 3
    assert answers[0]["tokens_per_s_per_gpu"] > 0
    assert answers[0]["memory_gb"] > 0
    assert isinstance(answers[0]["fits"], bool)
