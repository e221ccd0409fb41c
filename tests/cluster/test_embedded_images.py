"""The project's two images, as the builder made them from the plain Dockerfiles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedded import binaries, images, layout, versions
from embedded.stages import run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
RECIPES = {"operator": images.OPERATOR, "trainer": images.TRAINER}
PLACE = layout.from_environment()
STORAGE = PLACE.images / "storage"


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """Build what is missing; with everything there it takes no time."""
    pins = versions.load()
    with layout.exclusive(PLACE):
        binaries.install_packages(PLACE, pins.packages)
        images.build_all(PLACE, pins)


def stored(name: str) -> images.Stored:
    return images.stored(STORAGE, RECIPES[name].name)


def libraries(name: str) -> set[str]:
    """Return what lies in the image's site-packages."""
    return {
        entry.name
        for layer in stored(name).layers
        for entry in layer.files.glob("opt/qwenft/lib/python3*/site-packages/*")
    }


def configuration(name: str) -> dict[str, Any]:
    return dict(json.loads(stored(name).config))


def test_the_operators_image_carries_no_torch() -> None:
    found = libraries("operator")
    assert {"kopf", "kubernetes", "qwenft_operator", "qwenft_plan"} <= found
    assert not {"torch", "transformers", "qwenft_trainer"} & found


def test_the_trainers_image_carries_no_kopf() -> None:
    found = libraries("trainer")
    assert {"torch", "transformers", "qwenft_trainer", "qwenft_plan"} <= found
    assert not {"kopf", "kubernetes"} & found


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_an_image_runs_its_module_as_a_user(name: str) -> None:
    config = configuration(name)["config"]
    assert config["User"] == "1000:1000"
    assert config["Cmd"] == ["python", "-m", f"qwenft_{name}"]
    assert {"PYTHONSAFEPATH=1", "PYTHONDONTWRITEBYTECODE=1"} <= set(config["Env"])


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_module_of_ours_is_compiled(name: str) -> None:
    top = stored(name).layers[-1].files
    sources = list(top.glob(f"opt/qwenft/lib/python3*/site-packages/qwenft_{name}/*.py"))
    assert sources
    compiled = {path.name.partition(".")[0] for path in top.glob(f"opt/**/qwenft_{name}/**/*.pyc")}
    assert {source.stem for source in sources} <= compiled


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_nothing_of_this_machine_stays_in_an_image(name: str) -> None:
    image = stored(name)
    secrets = [path for layer in image.layers for path in layer.files.glob("run/secrets/*")]
    assert [path for path in secrets if path.is_file() and path.stat().st_size] == []
    left = ("etc/hostname", "etc/resolv.conf", "tmp/tools", "root/.cache/uv", "source")
    found = [layer.files / path for layer in image.layers for path in left]
    assert [path for path in found if path.exists() and path.stat().st_size] == []
    assert str(Path.home()) not in image.config.decode().replace("HOME=/root", "")


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[images.Recipe]:
    """Return the operator's recipe, under another name, in a checkout where one source changed."""
    recipe = replace(images.OPERATOR, name="qwenft.dev/operator:changed")
    for name in (recipe.dockerfile, *recipe.inputs):
        source, target = images.REPOSITORY / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    (tmp_path / "operator/src/qwenft_plan/added.py").write_text('"""Added."""\n')
    monkeypatch.setattr(images, "REPOSITORY", tmp_path)
    yield recipe
    run(images.builder(PLACE, "rmi", "--force", recipe.name))
    images.forget(PLACE, recipe.name)


def test_a_changed_source_costs_one_layer(changed: images.Recipe) -> None:
    with layout.exclusive(PLACE):
        images.build(PLACE, versions.load(), changed)
    before = [layer.diff_id for layer in stored("operator").layers]
    after = images.stored(STORAGE, changed.name)
    differing = [layer for layer in after.layers if layer.diff_id not in before]
    assert len(differing) == 1
    assert list(
        differing[0].files.glob("opt/qwenft/lib/python3*/site-packages/qwenft_plan/added.py")
    )
    size = sum(path.lstat().st_size for path in differing[0].files.rglob("*"))
    assert size < 10 * 2**20
