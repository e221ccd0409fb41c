from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import pytest

from embedded import delivery, images, versions
from embedded.stages import StageError

RECIPES = {recipe.dockerfile: recipe for recipe in images.RECIPES}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a small tree with everything that the trainer's image is made of."""
    for name in (images.TRAINER.dockerfile, *images.TRAINER.inputs):
        path = tmp_path / name
        folder = path if name.endswith("src") else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        (path / "module.py" if name.endswith("src") else path).write_text(name)
    return tmp_path


def key(checkout: Path) -> str:
    return images.key(images.TRAINER, "base", checkout)


@pytest.mark.parametrize("dockerfile", sorted(RECIPES))
def test_an_image_is_rebuilt_for_every_file_that_goes_into_it(dockerfile: str) -> None:
    text = (images.REPOSITORY / dockerfile).read_text().replace("\\\n", " ")
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert set(copied) == set(RECIPES[dockerfile].inputs)


@pytest.mark.parametrize("dockerfile", sorted(RECIPES))
def test_an_image_runs_as_a_user_and_writes_nothing(dockerfile: str) -> None:
    text = (images.REPOSITORY / dockerfile).read_text()
    last_stage = text[text.rindex("\nFROM ") :]
    assert "USER 1000:1000" in last_stage
    assert "PYTHONDONTWRITEBYTECODE=1" in last_stage
    assert "PYTHONSAFEPATH=1" in last_stage
    assert "RUN " not in last_stage
    assert "COPY operator/src" not in last_stage


@pytest.mark.parametrize("dockerfile", sorted(RECIPES))
def test_every_installation_is_held_by_hashes(dockerfile: str) -> None:
    text = (images.REPOSITORY / dockerfile).read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", text)
    assert len(installs) == 4
    assert all("--require-hashes" in each or "--offline" in each for each in installs)


def test_neither_image_carries_what_belongs_to_the_other() -> None:
    operator = (images.REPOSITORY / "requirements/operator.txt").read_text()
    trainer = (images.REPOSITORY / "requirements/trainer.txt").read_text()
    assert not re.search(r"^(torch|transformers)==", operator, re.MULTILINE)
    assert not re.search(r"^(kopf|kubernetes)==", trainer, re.MULTILINE)


@pytest.mark.parametrize("name", [images.TRAINER.dockerfile, *images.TRAINER.inputs])
def test_a_changed_input_changes_the_key(checkout: Path, name: str) -> None:
    before = key(checkout)
    path = checkout / name
    (path / "module.py" if path.is_dir() else path).write_text("changed")
    assert key(checkout) != before


def test_a_moved_file_changes_the_key(checkout: Path) -> None:
    before = key(checkout)
    source = checkout / "trainer_image/src"
    (source / "module.py").rename(source / "other.py")
    assert key(checkout) != before


def test_a_new_base_changes_the_key(checkout: Path) -> None:
    assert images.key(images.TRAINER, "another", checkout) != key(checkout)


def test_neither_times_nor_caches_change_the_key(checkout: Path) -> None:
    before = key(checkout)
    source = checkout / "trainer_image/src"
    (source / "module.py").touch()
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "module.pyc").write_text("compiled")
    (checkout / "unrelated").write_text("x")
    assert key(checkout) == before


def test_the_base_follows_its_packages() -> None:
    pins = versions.load()
    fewer = versions.Versions(
        go=pins.go, packages=pins.packages, base_suite=pins.base_suite, base_packages=("python3",)
    )
    assert images.base_key(fewer) != images.base_key(pins)


def test_the_environment_wins_over_pips_files() -> None:
    listing = ":env:.index-url='https://near/simple'\nglobal.index-url='https://far/simple'\n"
    assert images.pip_settings(listing)["index-url"] == "https://near/simple"
    reversed_listing = "\n".join(reversed(listing.splitlines()))
    assert images.pip_settings(reversed_listing)["index-url"] == "https://near/simple"


def test_the_index_survives_a_shell() -> None:
    address = "https://user:p$a 's@host/simple"
    lines = images.index_lines({"index-url": address})
    script = f'set -a; {lines}printf %s "$UV_DEFAULT_INDEX"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == address


def test_a_machine_with_nothing_to_say_names_no_index() -> None:
    lines = images.index_lines({})
    assert "INDEX" not in lines
    assert "SSL_CERT_FILE=/run/secrets/ca\n" in lines


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Return a builder's storage that holds one image of two layers and one that was replaced."""
    image = {"id": "e" * 64, "names": ["qwenft.dev/x:dev"], "layer": "top"}
    replaced = {"id": "f" * 64, "layer": "old"}
    layers = [
        {"id": "bottom", "diff-digest": "sha256:b"},
        {"id": "old", "diff-digest": "sha256:o", "parent": "bottom"},
        {"id": "top", "diff-digest": "sha256:t", "parent": "bottom"},
    ]
    digest = base64.b64encode(f"sha256:{image['id']}".encode()).decode()
    files = {
        "overlay-images/images.json": json.dumps([replaced, image]),
        "overlay-layers/layers.json": json.dumps(layers),
        f"overlay-images/{image['id']}/={digest}": '{"config": {}}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_built_image_is_read_lowest_layer_first(storage: Path) -> None:
    image = images.stored(storage, "qwenft.dev/x:dev")
    assert [layer.diff_id for layer in image.layers] == ["sha256:b", "sha256:t"]
    assert image.layers[1].files == storage / "overlay" / "top" / "diff"
    assert image.config == b'{"config": {}}'
    assert image.digest == f"sha256:{'e' * 64}"


def test_an_image_that_was_not_built_is_named(storage: Path) -> None:
    with pytest.raises(StageError, match=r"qwenft\.dev/y:dev is not built"):
        images.stored(storage, "qwenft.dev/y:dev")


OVERLAY = (
    "mount -t overlay overlay /unused -o index=off,workdir=/c/snapshots/7/work,"
    "upperdir=/c/snapshots/7/fs,lowerdir=/c/snapshots/1/fs\n"
)


@pytest.mark.parametrize(
    ("mounts", "folder"),
    [
        ("mount -t bind /c/snapshots/1/fs /unused -o rw,rbind\n", "/c/snapshots/1/fs"),
        (OVERLAY, "/c/snapshots/7/fs"),
    ],
)
def test_a_snapshots_folder_is_read_from_its_mounts(mounts: str, folder: str) -> None:
    assert delivery.snapshot_folder(mounts) == Path(folder)


def test_mounts_that_name_no_folder_are_refused() -> None:
    with pytest.raises(ValueError, match="no folder"):
        delivery.snapshot_folder("mount -t tmpfs tmpfs /x")
