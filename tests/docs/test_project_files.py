"""Samples of every size, the contributor's map, hooks and the release: true to the repository."""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from qwenft_cli.document import load
from qwenft_plan.errors import Infeasible
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import METHODS
from qwenft_plan.planner import plan
from reference import ROOT, samples
from reference.crd import schema

FOLDER = ROOT / "manifests" / "samples" / "sizes"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
RELEASE: dict[str, Any] = yaml.safe_load(
    (ROOT / ".github" / "workflows" / "release.yaml").read_text("utf-8")
)


def test_every_known_model_has_a_sample_of_each_method_and_no_other() -> None:
    known = {path.stem for path in FOLDER.glob("*.yaml")}
    assert known == set(samples.STEMS)
    assert len(known) == len(samples.NAMES) * len(METHODS)


@pytest.mark.parametrize("stem", samples.STEMS)
def test_a_sample_is_valid_and_names_the_model_that_is_planned(stem: str) -> None:
    read, name = load(str(FOLDER / f"{stem}.yaml")), samples.STEMS[stem].name
    assert read.spec.training.method == samples.STEMS[stem].method
    jsonschema.validate(dict(read.body["spec"]), schema()["properties"]["spec"])
    assert re.fullmatch(r"[a-z][-a-z0-9]{0,44}", read.name)
    found, known = ModelShape.for_spec(read.spec.model), ModelShape.known(name)
    assert replace(found, name=known.name) == known


@pytest.mark.parametrize(
    "name",
    ["qwen2.5-0.5b", "qwen1.5-7b", "qwen3-32b", "qwen1.5-72b", "qwen3-32b-lora", "qwen2-72b-qlora"],
)
def test_a_sample_fits_where_it_says_and_on_nothing_smaller(name: str) -> None:
    spec = load(str(FOLDER / f"{name}.yaml")).spec
    nodes, devices = samples.STEMS[name].nodes()
    assert (spec.resources.nodes.min, spec.resources.gpus_per_node) == (nodes, devices)
    shape = ModelShape.for_spec(spec.model)
    found = plan(spec=spec, model=shape, inventory=Inventory.parse(f"{nodes}x{devices}xH100-80G"))
    assert found.plan.world_size == nodes * devices
    place = samples.SIZES.index((nodes, devices))
    if place:
        fewer, less = samples.SIZES[place - 1]
        with pytest.raises(Infeasible):
            plan(spec=spec, model=shape, inventory=Inventory.parse(f"{fewer}x{less}xH100-80G"))


def test_larger_models_never_get_a_larger_rate() -> None:
    found = sorted(
        (ModelShape.known(name).parameters, load(str(FOLDER / f"{name}.yaml")).spec)
        for name in samples.NAMES
        if name.startswith("qwen2.5")
    )
    rates = [spec.training.learning_rate for _, spec in found]
    assert rates == sorted(rates, reverse=True)


def paths_in(text: str) -> list[str]:
    known = r"(?:operator|trainer_image|tests|manifests|charts|docs|requirements)/[\w./-]*\w"
    return re.findall(rf"`({known})", text)


def test_the_map_names_places_that_exist() -> None:
    assert len(paths_in(CONTRIBUTING)) > 20
    for path in paths_in(CONTRIBUTING):
        assert (ROOT / path).exists(), path


def test_the_modules_of_the_walks_exist() -> None:
    sources = {path.name for path in ROOT.glob("*/src/*/*.py")}
    sources |= {f"{path.parent.name}/{path.name}" for path in ROOT.glob("*/src/*/**/*.py")}
    for name in re.findall(r"`([\w/]+\.py)`", CONTRIBUTING):
        assert name in sources or (ROOT / name).exists(), name


def test_every_make_target_that_is_named_exists() -> None:
    texts = [CONTRIBUTING, (ROOT / "README.md").read_text("utf-8"), str(RELEASE)]
    for text in texts:
        for words in re.findall(r"(?:`|^|run': ')make ((?:[a-z-]+ ?)+)", text, flags=re.MULTILINE):
            for target in words.split():
                assert re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE), target


def test_every_hook_runs_what_the_project_pins() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    (own,) = hooks["repos"]
    assert own["repo"] == "local"
    for hook in own["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


def test_the_release_names_no_registry_and_no_version_of_its_own() -> None:
    steps = RELEASE["jobs"]["release"]["steps"]
    text = str(steps)
    assert "vars.REGISTRY" in text
    assert not re.search(r"(ghcr|docker|quay)\.io", text)
    for part in ("operator", "trainer_image"):
        assert (ROOT / part / "Dockerfile").is_file()


def test_chart_and_project_have_one_version() -> None:
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    chart = yaml.safe_load((ROOT / "charts" / "qwenft" / "Chart.yaml").read_text("utf-8"))
    assert project is not None
    assert project[1] == chart["version"] == chart["appVersion"]


@pytest.mark.full
def test_a_release_holds_every_package_and_the_chart() -> None:
    done = subprocess.run(["make", "dist"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (ROOT / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("qwenft", "qwenft_plan", "qwenft_operator", "qwenft_cli", "qwenft_trainer"):
        assert f"{package}/__init__.py" in names
    (chart,) = Path(ROOT / "dist").glob("qwenft-*.tgz")
    with tarfile.open(chart) as archive:
        assert "qwenft/Chart.yaml" in archive.getnames()
    wrong = subprocess.run(
        ["make", "dist", "VERSION=9.9.9"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert wrong.returncode != 0
    assert "versions differ" in wrong.stderr
