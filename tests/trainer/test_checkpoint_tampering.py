"""Checkpoints and models that somebody has prepared: detected, and nothing of them is run."""

import json
import os
import pathlib
import pickle
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from qwenft_trainer.checkpoint import CheckpointStore
from qwenft_trainer.checkpoint_files import (
    MANIFEST,
    digests,
    find,
    unlisted,
    verify,
    write_json,
)
from qwenft_trainer.checkpoint_reader import CONTENTS, GuardedReader, read_contents, suspicious
from qwenft_trainer.failure import ModelInvalid
from qwenft_trainer.model import read_config
from qwenft_trainer.remote import Store
from qwenft_trainer.remote_checkpoints import Mirror

pytestmark = pytest.mark.torch

SAVED = {
    "model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)},
    "optimizer": {"count": torch.tensor(7), "mask": torch.tensor([True, False])},
}


class Calls:
    """A pickle of this calls ``function`` when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return an honest checkpoint's directory, with its manifest."""
    path = tmp_path / "step-00000004-attempt-0001"
    with warnings.catch_warnings(action="ignore"):  # torch tells that there is one process
        save(SAVED, storage_writer=FileSystemWriter(str(path)), no_dist=True)
    sign(path)
    return path


def sign(path: Path) -> None:
    """Write a manifest that agrees with the directory, as anybody may who can write there."""
    files = {n: d for n, d in digests(path, prefix="").items() if n != MANIFEST}
    manifest = {"step": 4, "attempt": 1, "identity": "run", "files": files, "notes": {}}
    write_json(path / MANIFEST, manifest)


def test_an_honest_checkpoint_is_read_to_the_bit(checkpoint: Path) -> None:
    (found,) = find(checkpoint.parent)
    assert unlisted(found) is None
    assert verify(found.path, found.files) is None
    assert suspicious(checkpoint) is None
    target = {key: {n: torch.zeros_like(v) for n, v in part.items()} for key, part in SAVED.items()}
    with warnings.catch_warnings(action="ignore"):
        load(target, storage_reader=GuardedReader(checkpoint), no_dist=True)
    for key, part in SAVED.items():
        for name, value in part.items():
            assert torch.equal(target[key][name], value), name


def evil(marker: Path) -> dict[str, Any]:
    return {
        "a call": Calls(marker.touch),
        "a shell": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "hidden in a list": [Calls(marker.touch)],
        "an attribute of a known class": Calls(getattr, torch.Size, "__doc__"),
        "a tensor": torch.ones(3),
        "a number": 7,
        "nothing": None,
    }


@pytest.mark.parametrize("kind", sorted(evil(Path("x"))))
def test_a_table_of_contents_that_would_run_something_is_refused(
    checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    marker = tmp_path / "was-run"
    (checkpoint / CONTENTS).write_bytes(pickle.dumps(evil(marker)[kind]))
    sign(checkpoint)
    (found,) = find(checkpoint.parent)
    assert verify(found.path, found.files) is None, "the digests alone do not show it"
    assert "no table of contents" in (suspicious(checkpoint) or "")
    with pytest.raises(pickle.UnpicklingError):
        GuardedReader(checkpoint).read_metadata()
    assert not marker.exists()


def test_the_same_table_does_run_under_an_unguarded_reader(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    pickle.loads(pickle.dumps(evil(marker)["a call"]))  # noqa: S301 - what the guard is there for
    assert marker.exists()


@pytest.mark.parametrize("cut", [0, 1, 2, 10, 100, -1])
def test_a_cut_table_of_contents_is_an_error_of_one_kind(checkpoint: Path, cut: int) -> None:
    content = (checkpoint / CONTENTS).read_bytes()
    (checkpoint / CONTENTS).write_bytes(content[:cut])
    with pytest.raises(pickle.UnpicklingError):
        read_contents(checkpoint)


@pytest.mark.parametrize(
    "content",
    [b"N" + b"r" + b"\xff\xff\xff\x7f" + b".", b"Np99999999999\n.",
     b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
     b"\x80\x05\x8e\xff\xff\xff\xff\xff\x00\x00\x00N."],
    ids=["index", "decimal index", "frame", "bytes"],
)  # fmt: skip
def test_a_few_bytes_do_not_take_all_memory(checkpoint: Path, content: bytes) -> None:
    (checkpoint / CONTENTS).write_bytes(content)
    tracemalloc.start()
    with pytest.raises(pickle.UnpicklingError):
        read_contents(checkpoint)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_missing_table_of_contents_is_told(checkpoint: Path) -> None:
    (checkpoint / CONTENTS).unlink()
    assert "no table of contents" in (suspicious(checkpoint) or "")


@pytest.mark.parametrize("module", ["os", "builtins", "posix", "subprocess", "torch", "pathlib"])
def test_only_listed_names_are_found(checkpoint: Path, module: str) -> None:
    for name in ("system", "eval", "getattr", "load", "Path", "Size.__class__", "PosixPath.home"):
        call = f"c{module}\n{name}\n.".encode()
        (checkpoint / CONTENTS).write_bytes(call)
        with pytest.raises(pickle.UnpicklingError):
            read_contents(checkpoint)


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_a_path_is_read_as_every_python_writes_it(
    checkpoint: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_contents(checkpoint)
    with monkeypatch.context() as other:
        other.setitem(sys.modules, module, pathlib)
        other.setattr(pathlib.PosixPath, "__module__", module)
        content = pickle.dumps(found)
    assert module.encode() in content
    (checkpoint / CONTENTS).write_bytes(content)
    assert read_contents(checkpoint) == found


@pytest.mark.parametrize("file", ["../other/__0_0.distcp", "/etc/passwd", "", ".."])
def test_a_table_that_points_out_of_its_checkpoint_is_refused(checkpoint: Path, file: str) -> None:
    """Nobody's digest vouches for what lies there."""
    found = read_contents(checkpoint)
    for place in found.storage_data.values():
        place.relative_path = file
    (checkpoint / CONTENTS).write_bytes(pickle.dumps(found))
    sign(checkpoint)
    assert f"points to {file!r}" in (suspicious(checkpoint) or "")


@pytest.mark.parametrize(
    "part",
    [
        {"state_dict_metadata": []},
        {"state_dict_metadata": {"model.a": 7}},
        {"storage_data": None},
        {"storage_data": {"model.a": 7}},
        {"storage_meta": []},
    ],
    ids=repr,
)
def test_a_table_with_a_part_that_is_none_is_refused(
    checkpoint: Path, part: dict[str, Any]
) -> None:
    found = read_contents(checkpoint)
    vars(found).update(part)
    (checkpoint / CONTENTS).write_bytes(pickle.dumps(found))
    with pytest.raises(pickle.UnpicklingError):
        read_contents(checkpoint)


def test_a_file_that_the_manifest_does_not_know_is_told(checkpoint: Path) -> None:
    (checkpoint / "__9_9.distcp").write_bytes(b"smuggled")
    (found,) = find(checkpoint.parent)
    assert unlisted(found) == "__9_9.distcp is not in manifest.json"


def test_an_empty_manifest_vouches_for_nothing(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / MANIFEST).read_text()) | {"files": {}}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    (found,) = find(checkpoint.parent)
    assert verify(found.path, found.files) is None
    assert "is not in manifest.json" in (unlisted(found) or "")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "", "..", "a\0b", "\ud800"])
def test_a_manifest_that_points_elsewhere_is_told(checkpoint: Path, name: str) -> None:
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"][name] = "0"
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    (found,) = find(checkpoint.parent)
    assert unlisted(found) is not None or verify(found.path, found.files) is not None


def make_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, make_link, os.mkdir])
def test_what_is_listed_and_is_no_plain_file_is_told_and_not_read(
    checkpoint: Path, make: Callable[[Path], None]
) -> None:
    make(checkpoint / "__9_9.distcp")
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"]["__9_9.distcp"] = "0"
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    (found,) = find(checkpoint.parent)
    assert unlisted(found) == "__9_9.distcp is no plain file"


def test_a_manifest_s_names_are_looked_at_before_anything_is_fetched(tmp_path: Path) -> None:
    """A store's manifest may name ``../../x``, which would be written there."""
    there, here = tmp_path / "there", tmp_path / "node" / "here"
    step = there / "checkpoints" / "step-00000004-attempt-0001"
    step.mkdir(parents=True)
    manifest = {"step": 4, "attempt": 1, "identity": "run", "notes": {},
                "files": {"../../smuggled": "0"}}  # fmt: skip
    write_json(step / MANIFEST, manifest)
    (there / "smuggled").write_text("from the store")
    mirror = Mirror(store=Store(there.as_uri()), directory=here)
    mirror.look(attempt=2)
    (found,) = find(here)
    store = CheckpointStore(directory=here, identity="run", attempt=2, mirror=mirror)
    assert "'../../smuggled'" in (store._unusable(found) or "")
    assert not (tmp_path / "node" / "smuggled").exists()
    mirror.fetch_all(found.path.name, found.files)
    assert (tmp_path / "node" / "smuggled").exists(), "which is why it is asked first"


def test_a_store_s_folder_that_leads_elsewhere_is_not_fetched(tmp_path: Path) -> None:
    class Leading(Store):
        def names(self) -> list[str]:
            return [f"checkpoints/../{MANIFEST}"]

        def get(self, name: str, local: Path) -> None:
            raise AssertionError(f"{name} was fetched to {local}")

    Mirror(store=Leading(tmp_path.as_uri()), directory=tmp_path / "here").look(attempt=1)


@pytest.mark.parametrize("model_type", ["qwen2", "evil"])
def test_code_in_a_model_s_directory_is_not_run(tmp_path: Path, model_type: str) -> None:
    marker = tmp_path / "was-run"
    config = {
        "model_type": model_type,
        "hidden_size": 64,
        "auto_map": {
            "AutoConfig": "evil.EvilConfig",
            "AutoModelForCausalLM": "evil.EvilModel",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    if model_type == "evil":
        with pytest.raises(ModelInvalid):
            read_config(tmp_path)
    else:
        assert read_config(tmp_path).model_type == "qwen2"
    assert not marker.exists()
