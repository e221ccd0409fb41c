"""The sample manifests plan and render here as they do on a cluster."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwenft_cli.document import load

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "manifests" / "samples"
RUNS = sorted(
    path for path in SAMPLES.glob("*.yaml") if "kind: QwenFineTune" in path.read_text("utf-8")
)
SMALL = [path for path in RUNS if path.name.startswith("qwen-stdlib")]
Verb = Callable[..., int]


LIGHTER = {
    "qwen2.5-7b-qlora": "1x1xRTX4090",
    "qwen2.5-7b-adamw8bit": "1x1xH200",
    "qwen2.5-7b-offload": "1x1xH100-80G",
}
"""Samples of methods that make a model fit → the smallest place that each is made for."""


def nodes_for(path: Path) -> str:
    return LIGHTER.get(path.stem) or ("4x8xH100-80G" if "7b" in path.name else "2x1xcpu")


def test_there_is_a_sample_of_every_kind() -> None:
    assert {path.name for path in RUNS} == {
        "qwen-stdlib.yaml", "qwen-stdlib-pipeline.yaml", "qwen-stdlib-tensor.yaml",
        "qwen-stdlib-script.yaml", "qwen-stdlib-lora.yaml", "qwen1.5-7b.yaml",
        "qwen2.5-7b-fp8.yaml",
        *(f"{name}.yaml" for name in LIGHTER),
    }  # fmt: skip


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_sample_has_a_plan(
    qwenft: Verb, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("plan", str(path), "--on", nodes_for(path), "-o", "json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["global_batch_size"] == load(str(path)).spec.training.batch_size


@pytest.mark.parametrize(("name", "place"), LIGHTER.items())
def test_a_lighter_sample_s_model_does_not_fit_there_without_its_method(
    qwenft: Verb, tmp_path: Path, name: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (SAMPLES / f"{name}.yaml").read_text("utf-8")
    method = re.compile(r"^    (?:method|lora|optimizer|offloadOptimizer): .*\n", re.MULTILINE)
    plain = tmp_path / "plain.yaml"
    plain.write_text(method.sub("", text), "utf-8")
    assert qwenft("plan", str(plain), "--on", place) == 3
    assert "what would fit" in capsys.readouterr().err


def test_the_offloaded_sample_s_pod_asks_for_the_memory_that_its_comment_names(
    qwenft: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    path = SAMPLES / "qwen2.5-7b-offload.yaml"
    assert qwenft("render", str(path), "--on", LIGHTER[path.stem]) == 0
    job = list(yaml.safe_load_all(capsys.readouterr().out))[-1]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    asked = int(container["resources"]["requests"]["memory"].removesuffix("Mi")) / 1024
    (named,) = re.findall(r"about (\d+) GiB", path.read_text("utf-8"))
    assert asked == pytest.approx(float(named), rel=0.02)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_sample_renders_restricted_pods(
    qwenft: Verb, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qwenft("render", str(path), "--on", nodes_for(path)) == 0
    job = list(yaml.safe_load_all(capsys.readouterr().out))[-1]
    assert_restricted(job["spec"]["template"]["spec"])


@pytest.mark.parametrize("kind", ["pipeline", "tensor"])
def test_the_fixed_degree_is_in_the_plan(
    qwenft: Verb, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = SAMPLES / f"qwen-stdlib-{kind}.yaml"
    qwenft("plan", str(path), "--on", "2x1xcpu", "-o", "json")
    plan = json.loads(capsys.readouterr().out)
    assert plan[{"pipeline": "pp", "tensor": "tp"}[kind]] == 2


def test_the_data_s_job_is_restricted_too() -> None:
    job = yaml.safe_load((SAMPLES / "prepare.yaml").read_text("utf-8"))
    assert_restricted(job["spec"]["template"]["spec"])


def assert_restricted(pod: dict[str, Any]) -> None:
    """Assert what the Pod Security level `restricted` asks for, and a read-only root."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True


def constant(module: str, name: str) -> Any:
    """Return a literal of a trainer module without importing it: that would need torch."""
    source = ROOT / "trainer_image/src/qwenft_trainer" / f"{module}.py"
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets) and node.value:
                return ast.literal_eval(node.value)
    raise AssertionError(f"{module}.py has no {name}")


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_the_samples_describe_the_model_that_the_data_s_job_makes(path: Path) -> None:
    config = dict(load(str(path)).spec.model.config)
    assert config.pop("model_type") == "qwen2"
    assert config == constant("stdlib_sample", "CONFIG")


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_the_samples_take_the_data_s_whole_length(path: Path) -> None:
    assert load(str(path)).spec.training.sequence_length == constant("stdlib_sample", "LENGTH")


def test_the_script_s_batch_is_the_run_s() -> None:
    spec = load(str(SAMPLES / "qwen-stdlib-script.yaml")).spec
    assert f"--batch-size={spec.training.batch_size}" in spec.trainer.args


def test_the_script_of_the_samples_takes_the_samples_words() -> None:
    script = (SAMPLES / "train_qwen.py").read_text("utf-8")
    words = load(str(SAMPLES / "qwen-stdlib-script.yaml")).spec.trainer.args
    for word in words:
        assert f'"{word.partition("=")[0]}"' in script


def test_every_claim_of_the_samples_is_made_by_one() -> None:
    claim = yaml.safe_load((SAMPLES / "data.yaml").read_text("utf-8"))
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for path in RUNS:
        spec = load(str(path)).spec
        for part in (spec.dataset, spec.output, spec.model):
            if part.volume is not None:
                assert part.volume.claim_name == claim["metadata"]["name"]
