from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from embedded import archive

NAME = "qwenft.dev/thing:dev"
LAYERS = ("sha256:" + "a" * 64, "sha256:" + "b" * 64, "sha256:" + "c" * 64)


def sha(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def contents(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as opened:
        return {
            entry.name: stream.read()
            for entry in opened.getmembers()
            if (stream := opened.extractfile(entry)) is not None
        }


def written(tmp_path: Path, config: bytes, layers: tuple[archive.Blob, ...]) -> dict[str, bytes]:
    file = tmp_path / "deep" / "image.tar"
    archive.write(file, NAME, config, layers)
    return contents(file)


def follow(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    """Return what a descriptor refers to, its digest and size checked."""
    content = files[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
    assert len(content) == descriptor["size"]
    return content


def test_the_lowest_snapshot_is_named_after_its_layer() -> None:
    assert archive.chain_ids(LAYERS[:1]) == LAYERS[:1]


def test_a_snapshot_is_named_after_everything_below_it() -> None:
    second = sha(f"{LAYERS[0]} {LAYERS[1]}")
    third = sha(f"{second} {LAYERS[2]}")
    assert archive.chain_ids(LAYERS) == (LAYERS[0], second, third)


def test_the_same_layer_on_another_is_another_snapshot() -> None:
    swapped = (LAYERS[1], LAYERS[0], LAYERS[2])
    assert archive.chain_ids(LAYERS)[2] != archive.chain_ids(swapped)[2]


def test_no_layers_make_no_snapshots() -> None:
    assert archive.chain_ids(()) == ()


def test_everything_that_an_archive_names_is_in_it(tmp_path: Path) -> None:
    config = json.dumps({"rootfs": {"diff_ids": list(LAYERS)}}).encode()
    files = written(tmp_path, config, archive.stand_ins(LAYERS))
    index = json.loads(files["index.json"])
    manifest = json.loads(follow(files, index["manifests"][0]))
    assert follow(files, manifest["config"]) == config
    assert [follow(files, each).decode().strip() for each in manifest["layers"]] == list(LAYERS)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_the_archive_says_what_the_image_is_called(tmp_path: Path) -> None:
    index = json.loads(written(tmp_path, b"{}", ())["index.json"])
    annotations = index["manifests"][0]["annotations"]
    assert annotations["io.containerd.image.name"] == NAME
    assert annotations["org.opencontainers.image.ref.name"] == "dev"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_layer_has_a_stand_in_of_its_own(count: int) -> None:
    digests = {blob.digest for blob in archive.stand_ins(LAYERS[:count])}
    assert len(digests) == count


def test_one_program_makes_an_image_that_starts_it(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF")
    config, layer = archive.one_program(program)
    document = json.loads(config)
    assert document["config"]["Entrypoint"] == ["/pause"]
    assert document["rootfs"]["diff_ids"] == [layer.digest]
    with tarfile.open(fileobj=io.BytesIO(layer.content)) as opened:
        entry = opened.getmember("pause")
    assert entry.mode == 0o755
    assert document["config"]["User"].split(":")[0] != "0"


def test_an_image_of_the_same_program_is_the_same_image(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF")
    assert archive.one_program(program) == archive.one_program(program)
